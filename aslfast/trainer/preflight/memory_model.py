"""The parts of a GPU's memory that a run takes: a formula for each, from the model's sizes and the configuration.

Bytes everywhere; 1 GB is 10^9 of them. `e` in the formulas is the bytes of a number in model.dtype, n the parameters of
one adapter. What no formula gives (contexts, CUDA graphs, fragmentation) is an assumption, and is called so where it is
shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from aslfast.config import RunConfig
from aslfast.sampler.local.forward_pass import PREFILL_TOKENS
from aslfast.trainer.preflight.architectures import ModelShape
from aslfast.trainer.preflight.layer_memory import backward_bytes, itemsize, kept_bytes, layer_bytes
from aslfast_kernels.logprobs.head import STATISTICS_BYTES, WORKSPACE_BYTES

GB = 10**9
CONTEXT_BYTES = 600_000_000  # assumed: a process's CUDA context with cuBLAS and the kernels in it
GRAPH_BYTES = 2 << 20  # of one running request; SGLang reserves as much for its decode graphs (its memory_hook, 0.5.21)
ENGINE_BYTES = 512 << 20  # likewise, for the attention backend's tables
RESERVE_FRACTION = 0.04  # of the card, assumed: what the allocators lose between blocks
LOCAL_GROWTH = 1.5  # the local sampler's cache doubles: the old half is still there while it is copied


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the memory. how: the formula with its numbers, as a person reads it."""

    name: str
    n_bytes: int
    how: str


def has_engine(config: RunConfig) -> bool:
    """Return whether a process of its own samples; the local sampler works in the learner's, with its model."""
    return config.sampler.kind != "local"


def shares_base(config: RunConfig) -> bool:
    """Return whether engine and learner have one copy of the base; split over several cards, each has its own parts."""
    return config.sampler.share_base and config.distributed.model_parallel_size == 1


def base_weights(shape: ModelShape, config: RunConfig) -> Part:
    """Return parameters x e x copies: two for an engine that does not share the learner's base, else one."""
    if config.distributed.model_parallel_size > 1:
        return _split_base(shape, config)
    copies = 2 if has_engine(config) and not shares_base(config) else 1
    held = "two copies: engine, learner" if copies == 2 else "one copy for sampler and learner"
    how = f"{shape.parameters:,} parameters x {itemsize(config)} bytes, {held}"
    return Part("base", shape.parameters * itemsize(config) * copies, how)


def _split_base(shape: ModelShape, config: RunConfig) -> Part:
    """Return the part of the base on each of n cards.

    (layers / n + the rest + 2 gathered layers) x e in the learner, parameters / n x e in the engine.
    """
    n, e, in_layers = config.distributed.model_parallel_size, itemsize(config), shape.layer_parameters
    learner = in_layers // n + shape.parameters - in_layers + 2 * in_layers // shape.layers
    engine = shape.parameters // n
    how = f"({learner:,} parameters in the learner, its layers / {n}, + {engine:,} in the engine) x {e} bytes"
    return Part("base", (learner + engine) * e, how)


def adapters(shape: ModelShape, config: RunConfig) -> Part:
    """Return 3 roles x n x 4 (float32 masters), and an engine's slots: 3 roles and the base, (3 + 1) x n x e."""
    n, slots = shape.adapter_parameters, _slots(config)
    how = f"{len(config.adapters)} adapters x {n:,} parameters x 4 bytes"
    engine = f", the engine's {slots} slots x {itemsize(config)}" if slots else ""
    return Part("adapters", (len(config.adapters) * 4 + slots * itemsize(config)) * n, how + engine)


def _slots(config: RunConfig) -> int:
    return len(config.adapters) + 1 if has_engine(config) else 0


def engine_bytes(shape: ModelShape, config: RunConfig) -> int:
    """Return the bytes of the weights above in the engine's process: its base and its slots."""
    base = shape.parameters // config.distributed.model_parallel_size
    return (base + _slots(config) * shape.adapter_parameters) * itemsize(config)


def learner_bytes(shape: ModelShape, config: RunConfig) -> int:
    """Return the bytes of the weights above in the learner's process: the masters, and its own base if it has one."""
    weights = base_weights(shape, config).n_bytes + adapters(shape, config).n_bytes
    return weights - engine_bytes(shape, config)


def optimizer(shape: ModelShape, config: RunConfig) -> Part:
    """Return learning adapters x n x 8: AdamW's two moments in float32."""
    n, adapters = shape.adapter_parameters, len(config.learning_adapters)
    return Part("optimizer", adapters * n * 8, f"AdamW: {adapters} adapters x {n:,} x 8 bytes")


def gradients(shape: ModelShape) -> Part:
    """Return n x 4: one role's gradient, since roles take turns and a step frees its gradient."""
    n = shape.adapter_parameters
    return Part("gradients", n * 4, f"one role at a time: {n:,} x 4 bytes")


def micro_batch(config: RunConfig) -> int:
    """Return the tokens of a micro-batch. A trajectory is never cut: one of max_context always has to fit."""
    return max(config.learner.micro_batch_tokens, config.sampler.max_context)


def activations(shape: ModelShape, config: RunConfig) -> Part:
    """Return the activations of a micro-batch: tokens x (layers x kept + backward).

    With activation checkpointing one layer more, which runs again; in half precision also n x e, the adapter as the
    matrix products read it.
    """
    e, tokens, kept = itemsize(config), micro_batch(config), kept_bytes(shape, config)
    again = 0 if config.learner.activation_checkpointing == "none" else layer_bytes(shape, config.lora.rank, e)
    extra, cast = again + backward_bytes(shape), shape.adapter_parameters * e * (e < 4)
    how = f"{tokens:,} tokens x ({shape.layers} layers x {kept:,} + {extra:,} bytes)"
    copy = f" + {shape.adapter_parameters:,} x {e}" if cast else ""
    note = f", checkpointing {config.learner.activation_checkpointing}"
    return Part("activations", tokens * (shape.layers * kept + extra) + cast, how + copy + note)


def head(shape: ModelShape, config: RunConfig) -> Part:
    """Return workspace + statistics + tokens x 4 e D.

    The log-prob kernel's chunk, never [T, V]; hidden states, residual and their gradients.
    """
    room, tokens = WORKSPACE_BYTES + STATISTICS_BYTES, micro_batch(config)
    n_bytes = room + tokens * 4 * itemsize(config) * shape.hidden
    return Part("head", n_bytes, f"log-prob workspace {room / GB:.2f} GB + {tokens:,} tokens x 4 hidden states")


def sampling(shape: ModelShape, config: RunConfig) -> Part:
    """Return prefill x (4 e I + 8 e D) + requests x 3 x 4 V, and an engine's requests x 2 MiB + 512 MiB: assumed."""
    e, requests = itemsize(config), config.sampler.max_running_requests
    prefill = PREFILL_TOKENS * e * (4 * shape.intermediate + 8 * shape.hidden)
    engine = (ENGINE_BYTES + requests * GRAPH_BYTES) * has_engine(config)
    how = f"assumed: a prefill of {PREFILL_TOKENS:,} tokens, logits of {requests:,} request{'s' * (requests > 1)}"
    graphs = ", CUDA graphs" if engine else ""
    return Part("sampling", prefill + requests * 12 * shape.vocabulary + engine, how + graphs)


def contexts(config: RunConfig) -> Part:
    """Return the CUDA contexts of the processes: assumed."""
    processes = 1 + has_engine(config)
    how = f"assumed: {processes} process{'es' * (processes > 1)} x {CONTEXT_BYTES / GB} GB"
    return Part("CUDA contexts", processes * CONTEXT_BYTES, how)


def reserve(card_bytes: int) -> Part:
    """Return a reserve for fragmentation: assumed."""
    n_bytes = int(RESERVE_FRACTION * card_bytes)
    return Part("reserve", n_bytes, f"assumed: {RESERVE_FRACTION:.0%} of the card, fragmentation")


def kv_heads(shape: ModelShape, config: RunConfig) -> int:
    """Return the key/value heads on one card: an engine on several splits them, down to one each."""
    return max(1, shape.kv_heads // config.distributed.model_parallel_size)


def kv_bytes(shape: ModelShape, config: RunConfig) -> int:
    """Return the bytes of a token's keys and values: 2 x layers x kv heads x head_dim x e; local: x 1.5."""
    token = 2 * shape.layers * kv_heads(shape, config) * shape.head_dim * itemsize(config)
    return token if has_engine(config) else int(LOCAL_GROWTH * token)


def kv_pool(shape: ModelShape, config: RunConfig, tokens: int) -> Part:
    """Return the KV pool of so many tokens."""
    growth = "" if has_engine(config) else f" x {LOCAL_GROWTH} while it grows"
    heads = f"{kv_heads(shape, config)} kv heads"
    sizes = f"2 x {shape.layers} layers x {heads} x {shape.head_dim} x {itemsize(config)} bytes{growth}"
    return Part("KV pool", tokens * kv_bytes(shape, config), f"{tokens:,} tokens x {sizes}")
