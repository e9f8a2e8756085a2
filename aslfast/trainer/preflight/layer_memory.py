"""Bytes that a layer keeps of one token between forward and backward pass, as formulas of a model's sizes.

`e` in the formulas is the bytes of a number in model.dtype.
"""

from __future__ import annotations

import torch

from aslfast.config import RunConfig
from aslfast.trainer.preflight.architectures import ModelShape


def itemsize(config: RunConfig) -> int:
    """Return e, the bytes of a number in model.dtype."""
    return getattr(torch, config.model.dtype).itemsize


def layer_bytes(shape: ModelShape, rank: int, e: int) -> int:
    """Return what one layer keeps of one token for the backward pass, in bytes.

    D hidden, A = heads x head_dim, K = kv heads x head_dim, I intermediate:

        norms        2 (4 D + 4)                   their input and scale, in float32
        qk norm      4 (A + K) + 4 (heads + kv)    where the model has them
        attention    e (2 A + 2 K) + 4 heads       q, output, k, v, log-sum-exp
        mlp          3 e I                         gate, its activation, up
        LoRA inputs  e (2 D + A + I)               one for q, k, v; one for gate, up; o; down
        LoRA         7 e rank                      between A and B

    The base is frozen, so its own matrix products keep nothing. Tests compare it with what autograd keeps.
    """
    D, intermediate = shape.hidden, shape.intermediate
    A, K = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * (4 * D + 4) + (4 * (A + K) + 4 * (shape.heads + shape.kv_heads)) * shape.qk_norm
    attention = e * (2 * A + 2 * K) + 4 * shape.heads
    return norms + attention + e * (3 * intermediate + 2 * D + A + intermediate + 7 * rank)


def kept_bytes(shape: ModelShape, config: RunConfig) -> int:
    """Return the bytes kept of a layer and a token until its backward pass, by learner.activation_checkpointing:

    none       all of `layer_bytes`
    layers     e D                                           its input
    selective  e (3 D + 2 A + 2 K + 7 rank) + 4 heads        its input, attention, products but gate, up and LoRA's B
    """
    e, rank = itemsize(config), config.lora.rank
    if config.learner.activation_checkpointing == "none":
        return layer_bytes(shape, rank, e)
    if config.learner.activation_checkpointing == "layers":
        return e * shape.hidden
    A, K = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return e * (3 * shape.hidden + 2 * A + 2 * K + 7 * rank) + 4 * shape.heads


def backward_bytes(shape: ModelShape) -> int:
    """Return the most bytes of one token while the gradient passes: 4 max(6 D, D + 2 I), in the last norm or an MLP.

    D: hidden, or the attention's width where that is larger. A bound; tests compare it with peaks.
    """
    width = max(shape.hidden, shape.heads * shape.head_dim)
    return 4 * max(6 * width, width + 2 * shape.intermediate)
