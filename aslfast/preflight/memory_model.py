"""What a run holds in a GPU's memory: a formula for each part, from the model's sizes and the configuration.

Bytes everywhere; 1 GB is 10^9 of them. `e` in the formulas is the bytes of a number in model.dtype. What no formula
gives (contexts, CUDA graphs, fragmentation) is an assumption, and is called so where it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from aslfast.config import RunConfig
from aslfast.preflight.architectures import ModelShape
from aslfast.sampler.local.forward_pass import PREFILL_TOKENS
from aslfast_kernels.logprob_head import STATISTICS_BYTES, WORKSPACE_BYTES

GB = 10**9
CONTEXT_BYTES = 600_000_000  # assumed: a process's CUDA context with cuBLAS and the kernels in it
GRAPH_BYTES = 2 << 20  # of one row; SGLang reserves as much for its decode graphs (its memory_hook, 0.5.21)
ENGINE_BYTES = 512 << 20  # likewise, for the attention backend's tables
RESERVE_SHARE = 0.04  # of the card, assumed: what the allocators lose between blocks
LOCAL_GROWTH = 1.5  # the local sampler's cache doubles: the old half is still there while it is copied


@dataclass(frozen=True, slots=True)
class Part:
    """`how`: the formula with its numbers, as a person reads it."""

    name: str
    n_bytes: int
    how: str


def itemsize(config: RunConfig) -> int:
    return getattr(torch, config.model.dtype).itemsize


def has_engine(config: RunConfig) -> bool:
    """Whether a process of its own samples; the local sampler works in the learner's, with its model."""
    return config.sampler.kind != "local"


def shares_base(config: RunConfig) -> bool:
    """Whether engine and learner have one copy of the base; split over several cards, each has its own parts."""
    return config.sampler.share_base and config.distributed.model_parallel_size == 1


def base_weights(shape: ModelShape, config: RunConfig) -> Part:
    """parameters x e x copies; the second copy is an engine's that does not share its own with the learner."""
    if config.distributed.model_parallel_size > 1:
        return _base_in_parts(shape, config)
    copies = 2 if has_engine(config) and not shares_base(config) else 1
    held = "two copies: engine, learner" if copies == 2 else "one copy for sampler and learner"
    how = f"{shape.parameters:,} parameters x {itemsize(config)} bytes, {held}"
    return Part("base", shape.parameters * itemsize(config) * copies, how)


def _base_in_parts(shape: ModelShape, config: RunConfig) -> Part:
    """Of n cards, each: (layers / n + the rest + 2 layers that are gathered) x e in the learner, parameters / n x e in
    the engine."""
    n, e, inside = config.distributed.model_parallel_size, itemsize(config), shape.layer_parameters
    learner = inside // n + shape.parameters - inside + 2 * inside // shape.layers
    engine = shape.parameters // n
    how = f"({learner:,} parameters in the learner, its layers / {n}, + {engine:,} in the engine) x {e} bytes"
    return Part("base", (learner + engine) * e, how)


def adapters(shape: ModelShape, config: RunConfig) -> Part:
    """3 roles x n x 4 (float32 masters), and an engine's slots: 3 roles and the base, (3 + 1) x n x e."""
    n, slots = shape.adapter_parameters, _slots(config)
    how = f"{len(config.adapters)} adapters x {n:,} parameters x 4 bytes"
    engine = f", the engine's {slots} slots x {itemsize(config)}" if slots else ""
    return Part("adapters", (len(config.adapters) * 4 + slots * itemsize(config)) * n, how + engine)


def _slots(config: RunConfig) -> int:
    return len(config.adapters) + 1 if has_engine(config) else 0


def engine_bytes(shape: ModelShape, config: RunConfig) -> int:
    """Of the weights above, those in the engine's process: its base and its slots."""
    return (
        shape.parameters // config.distributed.model_parallel_size + _slots(config) * shape.adapter_parameters
    ) * itemsize(config)


def learner_bytes(shape: ModelShape, config: RunConfig) -> int:
    """And those in the learner's: the masters, and the base where it has its own."""
    weights = base_weights(shape, config).n_bytes + adapters(shape, config).n_bytes
    return weights - engine_bytes(shape, config)


def optimizer(shape: ModelShape, config: RunConfig) -> Part:
    """Adapters x n x 8: AdamW's two moments in float32."""
    n = shape.adapter_parameters
    return Part("optimizer", len(config.adapters) * n * 8, f"AdamW: {len(config.adapters)} adapters x {n:,} x 8 bytes")


def gradients(shape: ModelShape) -> Part:
    """n x 4: of one role, since roles take turns and a step frees its gradient."""
    n = shape.adapter_parameters
    return Part("gradients", n * 4, f"one role at a time: {n:,} x 4 bytes")


def layer_bytes(shape: ModelShape, rank: int, e: int) -> int:
    """What one layer keeps of one token for the backward pass. D hidden, A = heads x head_dim, K = kv heads x head_dim,
    I intermediate:

        norms        2 (4 D + 4)                   their input and scale, in float32
        qk norm      4 (A + K) + 4 (heads + kv)    where the model has them
        attention    e (2 A + 2 K) + 4 heads       q, output, k, v, log-sum-exp
        mlp          3 e I                         gate, its activation, up
        LoRA inputs  e (2 D + A + I)               one for q, k, v; one for gate, up; o; down
        LoRA         7 e rank                      between A and B

    The base is frozen, so its own matrix products keep nothing. Compared with what autograd keeps in tests.
    """
    D, intermediate = shape.hidden, shape.intermediate
    A, K = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * (4 * D + 4) + (4 * (A + K) + 4 * (shape.heads + shape.kv_heads)) * shape.qk_norm
    attention = e * (2 * A + 2 * K) + 4 * shape.heads
    return norms + attention + e * (3 * intermediate + 2 * D + A + intermediate + 7 * rank)


def kept_bytes(shape: ModelShape, config: RunConfig) -> int:
    """What stays of a layer and a token until the backward comes to it, by learner.activation_checkpointing:

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
    """Of one token while the gradient passes, at most: 4 max(6 D, D + 2 I), in the last norm or in an MLP (D: hidden,
    or the attention's width where that is larger). A bound; compared with peaks in tests."""
    width = max(shape.hidden, shape.heads * shape.head_dim)
    return 4 * max(6 * width, width + 2 * shape.intermediate)


def micro_batch(config: RunConfig) -> int:
    """Tokens. A trajectory is never cut, so that one of max_context always has to fit."""
    return max(config.learner.micro_batch_tokens, config.sampler.max_context)


def activations(shape: ModelShape, config: RunConfig) -> Part:
    """Of a micro-batch: tokens x (layers x kept + backward), and one layer more where a checkpoint runs it again; in
    half precision also n x e, the adapter as the products read it."""
    e, tokens, kept = itemsize(config), micro_batch(config), kept_bytes(shape, config)
    again = 0 if config.learner.activation_checkpointing == "none" else layer_bytes(shape, config.lora.rank, e)
    extra, cast = again + backward_bytes(shape), shape.adapter_parameters * e * (e < 4)
    how = f"{tokens:,} tokens x ({shape.layers} layers x {kept:,} + {extra:,} bytes)"
    copy = f" + {shape.adapter_parameters:,} x {e}" if cast else ""
    note = f", checkpointing {config.learner.activation_checkpointing}"
    return Part("activations", tokens * (shape.layers * kept + extra) + cast, how + copy + note)


def head(shape: ModelShape, config: RunConfig) -> Part:
    """workspace + statistics + tokens x 4 e D: the log-prob kernel's chunk, never [T, V]; hidden states, residual and
    their gradients."""
    room, tokens = WORKSPACE_BYTES + STATISTICS_BYTES, micro_batch(config)
    n_bytes = room + tokens * 4 * itemsize(config) * shape.hidden
    return Part("head", n_bytes, f"log-prob workspace {room / GB:.2f} GB + {tokens:,} tokens x 4 hidden states")


def sampling(shape: ModelShape, config: RunConfig) -> Part:
    """prefill x (4 e I + 8 e D) + rows x 3 x 4 V, and an engine's rows x 2 MiB of graphs + 512 MiB: assumed."""
    e, rows = itemsize(config), config.sampler.max_running_requests
    prefill = PREFILL_TOKENS * e * (4 * shape.intermediate + 8 * shape.hidden)
    engine = (ENGINE_BYTES + rows * GRAPH_BYTES) * has_engine(config)
    how = f"assumed: a prefill of {PREFILL_TOKENS:,} tokens, logits of {rows:,} row{'s' * (rows > 1)}"
    graphs = ", CUDA graphs" if engine else ""
    return Part("sampling", prefill + rows * 12 * shape.vocabulary + engine, how + graphs)


def contexts(config: RunConfig) -> Part:
    processes = 1 + has_engine(config)
    how = f"assumed: {processes} process{'es' * (processes > 1)} x {CONTEXT_BYTES / GB} GB"
    return Part("CUDA contexts", processes * CONTEXT_BYTES, how)


def reserve(card_bytes: int) -> Part:
    return Part("reserve", int(RESERVE_SHARE * card_bytes), f"assumed: {RESERVE_SHARE:.0%} of the card, fragmentation")


def kv_heads(shape: ModelShape, config: RunConfig) -> int:
    """Of one card: an engine on several splits them, down to one each."""
    return max(1, shape.kv_heads // config.distributed.model_parallel_size)


def kv_bytes(shape: ModelShape, config: RunConfig) -> int:
    """Keys and values of one token: 2 x layers x kv heads x head_dim x e; x 1.5 where the cache grows by doubling."""
    token = 2 * shape.layers * kv_heads(shape, config) * shape.head_dim * itemsize(config)
    return token if has_engine(config) else int(LOCAL_GROWTH * token)


def kv_pool(shape: ModelShape, config: RunConfig, tokens: int) -> Part:
    growth = "" if has_engine(config) else f" x {LOCAL_GROWTH} while it grows"
    heads = f"{kv_heads(shape, config)} kv heads"
    sizes = f"2 x {shape.layers} layers x {heads} x {shape.head_dim} x {itemsize(config)} bytes{growth}"
    return Part("KV pool", tokens * kv_bytes(shape, config), f"{tokens:,} tokens x {sizes}")
