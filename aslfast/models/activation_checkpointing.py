"""Activation checkpointing of the decoder's layers: less memory for the backward pass, some work done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

PRODUCTS = ("mm", "addmm")  # their last argument is the weight [in, out]
WIDENING = 2  # times its input


def _keep_narrow(ctx: object, op: object, *args: Tensor, **kwargs: object) -> CheckpointPolicy:
    """Keep attention, and matrix products unless they widen their input: an element of those takes the fewest
    operations to compute again. They are the MLP's gate and up, most of a layer's memory, and LoRA's B."""
    name = getattr(op, "__name__", str(op)).split(".")[0]
    keep = "attention" in name or "attn" in name
    if name in PRODUCTS:
        n_in, n_out = args[-1].shape
        keep = n_out <= WIDENING * n_in
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


_KINDS: dict[str, Callable[..., object]] = {
    "layers": partial(checkpoint, use_reentrant=False),
    "selective": partial(
        checkpoint, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, _keep_narrow)
    ),
}


@contextmanager
def checkpoint_activations(model: nn.Module, kind: str) -> Iterator[None]:
    """Keep, in forward passes inside the block, all activations of each layer ("none"), its input alone ("layers"),
    or its input, attention and the products that do not widen ("selective")."""
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
