"""What must change where a run cannot fit: every remedy is counted, none is guessed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from aslfast.config import RunConfig
from aslfast.preflight.architectures import ModelShape
from aslfast.preflight.memory_fit import Card, MemoryPlan, Settings, least_plan, with_settings
from aslfast.preflight.memory_model import GB, has_engine

SIZES_GB = (24, 48, 80, 141)  # among which a larger card is looked for
LEAST_CONTEXT = 1024  # nothing useful happens in less
CONTEXT_STEP = 256
SHARDS = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Remedy:
    """`change`: settings to add, or a larger card. `frees_bytes`: of the least that a run takes."""

    change: str
    frees_bytes: int
    fits: bool


def remedies(config: RunConfig, shape: ModelShape, card: Card) -> list[Remedy]:
    """Each setting alone; where none is enough, all together, on a larger card if need be; and the smallest card on
    which nothing has to change."""
    changes = list(_changes(config, shape, card))
    found = [_remedy(config, shape, card, change) for change in changes]
    if not any(remedy.fits for remedy in found):
        together = _together(config, shape, card)
        if together not in (*changes, {}):
            found.append(_on_a_card(config, shape, card, together))
    return found + [remedy for remedy in [_on_a_card(config, shape, card, {})] if remedy.fits]


def _changes(config: RunConfig, shape: ModelShape, card: Card) -> Iterator[Settings]:
    if config.learner.activation_checkpointing == "none":
        yield {"learner.activation_checkpointing": "layers"}
    if has_engine(config) and not config.sampler.share_base and config.distributed.model_parallel_size == 1:
        yield {"sampler.share_base": True}
    if config.model.dtype == "float32":
        yield {"model.dtype": "bfloat16"}
    if has_engine(config) and (shard := _fitting_shard(config, shape, card)):
        yield {"distributed.model_parallel_size": shard}
    context = _fitting_context(config, shape, card)
    if context >= LEAST_CONTEXT:
        yield {"sampler.max_context": context}


def _fitting_shard(config: RunConfig, shape: ModelShape, card: Card) -> int | None:
    """The fewest cards of one machine that are enough to hold the base between them, or the most that may help."""
    several = [n for n in SHARDS if n > config.distributed.model_parallel_size and shape.heads % n == 0]
    fitting = (
        n
        for n in several
        if least_plan(with_settings(config, {"distributed.model_parallel_size": n}), shape, card).fits
    )
    return next(fitting, several[-1] if several else None)


def _together(config: RunConfig, shape: ModelShape, card: Card) -> Settings:
    """All that costs no length; a shorter context as well, only if that is not enough."""
    settings: dict[str, Any] = {}
    for change in _changes(config, shape, card):
        settings |= {key: value for key, value in change.items() if key != "sampler.max_context"}
    changed = with_settings(config, settings)
    context = _fitting_context(changed, shape, card)
    if context >= LEAST_CONTEXT and not least_plan(changed, shape, card).fits:
        settings["sampler.max_context"] = context
    return settings


def _fitting_context(config: RunConfig, shape: ModelShape, card: Card) -> int:
    """The longest context that fits, in steps of 256; at most 0 where none does. The least is a line over it."""
    one, two = (least_plan(with_settings(config, {"sampler.max_context": n}), shape, card).n_bytes for n in (1, 2))
    longest = (card.n_bytes - (2 * one - two)) // (two - one)
    return min(longest, config.sampler.max_context) // CONTEXT_STEP * CONTEXT_STEP


def _on_a_card(config: RunConfig, shape: ModelShape, card: Card, settings: Settings) -> Remedy:
    """These settings on this card or, where they are not enough, on the smallest one where they are."""
    remedy = _remedy(config, shape, card, settings)
    changed = with_settings(config, settings)
    cards = (Card(f"{gb}GB", gb * GB) for gb in SIZES_GB)
    larger = None if remedy.fits else next((c for c in cards if least_plan(changed, shape, c).fits), None)
    return replace(remedy, change=f"{remedy.change} --gpu {larger.name}".strip(), fits=True) if larger else remedy


def _remedy(config: RunConfig, shape: ModelShape, card: Card, settings: Settings) -> Remedy:
    before, after = least_plan(config, shape, card), least_plan(with_settings(config, settings), shape, card)
    change = " ".join(f"--set {key}={written(value)}" for key, value in settings.items())
    return Remedy(change, before.n_bytes - after.n_bytes, after.fits)


def written(value: Any) -> str:
    """As `--set` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def told(remedy: Remedy) -> str:
    frees = f" frees {remedy.frees_bytes / GB:.1f} GB" if remedy.frees_bytes else ""
    return f"{remedy.change}{frees}{', then it fits' if remedy.fits else ', not enough alone'}"


def refusal(plan: MemoryPlan, config: RunConfig) -> str:
    """Why it does not fit, and what would make it fit, in one line."""
    enough = [told(remedy) for remedy in remedies(config, plan.shape, plan.card) if remedy.fits]
    needed, size = plan.n_bytes / GB, plan.card.n_bytes / GB
    return (
        f"{config.recipe} does not fit {plan.card.name}: it takes at least {needed:.1f} GB of {size:.1f}; "
        f"{'; or '.join(enough) or 'no setting makes it fit one card: take a smaller model'}"
    )
