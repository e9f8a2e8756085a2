"""How many tokens a model attends to in the same way: beyond, its attention slides or its rotary frequencies change.

Within the limit every token attends to all of its past at fixed frequencies, so that neither what is packed beside a
trajectory nor how long its neighbours are can matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aslfast.errors import UserError

WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}  # by layer type


@dataclass(frozen=True, slots=True)
class ContextLimit:
    """what: ends a sentence that begins "the model"."""

    tokens: int
    what: str


def context_limit(config: Any) -> ContextLimit | None:
    """Return the least of the model's limits; None where it has none. Raise UserError for layers without attention."""
    return min(_limits(config), key=lambda limit: limit.tokens, default=None)


def check_context(limit: ContextLimit | None, max_context: int) -> None:
    """Raise UserError where trajectories may be longer than the limit."""
    if limit and limit.tokens < max_context:
        raise UserError(
            f"sampler.max_context is {max_context}, the model {limit.what}; set it to {limit.tokens} or less"
        )


def _limits(config: Any) -> Iterator[ContextLimit]:
    positions = getattr(config, "max_position_embeddings", None) or 0
    if positions > 0:  # some say -1 for none
        yield ContextLimit(positions, f"has {positions} positions")
    for key in _window_keys(config):
        if window := getattr(config, key, None):
            yield ContextLimit(window, f"attends to {window} tokens ({key})")
    yield from _rotary_limits(config)


def _window_keys(config: Any) -> list[str]:
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if unknown := sorted(kinds - WINDOWS.keys()):
        what = f"layers of type {', '.join(unknown)} are not supported"
        raise UserError(f"{config.model_type}: {what}; use a model with full attention in every layer")
    return [WINDOWS[kind] for kind in kinds] if getattr(config, "layer_types", None) else ["sliding_window"]


def _rotary_limits(config: Any) -> Iterator[ContextLimit]:
    """Yield where frequencies change: longrope takes another set beyond the original length, dynamic grows theirs."""
    rope: Any = getattr(config, "rope_parameters", None) or {}
    for found in [rope, *(value for value in rope.values() if isinstance(value, Mapping))]:
        kind = found.get("rope_type")
        if kind in ("longrope", "dynamic"):
            key = "original_max_position_embeddings" if kind == "longrope" else "max_position_embeddings"
            tokens = found.get(key) or getattr(config, key, None) or config.max_position_embeddings
            yield ContextLimit(tokens, f"changes its rotary frequencies beyond {tokens} tokens (rope_type {kind})")


def check_plain_softmax(softcap: float | None, sinks: object, part: str) -> None:
    """Raise UserError for attention that is more than a softmax of scaled products, as it is called. part: by whom."""
    if softcap is not None or sinks is not None:
        what = "caps its attention scores" if sinks is None else "has attention sinks"
        raise UserError(f"the base model {what}, which {part} does not support; use another base")
