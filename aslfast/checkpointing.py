"""Activation checkpointing of the decoder's layers: memory of the backward pass for work done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

PRODUCTS = {"mm", "addmm", "bmm", "linear"}  # and whatever has "attention" or "attn" in its name


def _keep_products(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keeps matrix products and attention, which cost the time; the rest is quickly made again."""
    name = getattr(op, "__name__", str(op)).split(".")[0]
    dear = name in PRODUCTS or "attention" in name or "attn" in name
    return CheckpointPolicy.MUST_SAVE if dear else CheckpointPolicy.PREFER_RECOMPUTE


_KINDS: dict[str, Callable[..., Any]] = {
    "layers": partial(checkpoint, use_reentrant=False),
    "selective": partial(
        checkpoint, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, _keep_products)
    ),
}


@contextmanager
def checkpointed(model: nn.Module, kind: str) -> Iterator[None]:
    """Forward passes inside keep, of each layer, all activations ("none"), its input alone ("layers"), or its input,
    matrix products and attention ("selective")."""
    layers: list[Any] = []
    if kind != "none":
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        # transformers checkpoints in training mode alone; the layer's own flag, not its children's: dropout stays off
        layer.gradient_checkpointing = layer.training = True
        layer._gradient_checkpointing_func = _KINDS[kind]
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False
