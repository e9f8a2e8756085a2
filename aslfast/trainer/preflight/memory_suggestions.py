"""Suggestions for a run that does not fit: each is counted, none is guessed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from aslfast.config import RunConfig
from aslfast.trainer.preflight.architectures import ModelShape
from aslfast.trainer.preflight.memory_fit import Card, MemoryPlan, Settings, least_plan, with_settings
from aslfast.trainer.preflight.memory_model import GB, has_engine

SIZES_GB = (24, 48, 80, 141)  # of the larger cards that are tried
LEAST_CONTEXT = 1024  # tokens; less is of no use
CONTEXT_STEP = 256
MODEL_PARALLEL_SIZES = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A change that frees memory. change: settings to add, or a larger card. frees_bytes: of a run's least."""

    change: str
    frees_bytes: int
    fits: bool


def suggest(config: RunConfig, shape: ModelShape, card: Card) -> list[Suggestion]:
    """Return each setting alone; where none is enough, all together, on a larger card if needed.

    Also the smallest card on which nothing has to change.
    """
    changes = list(_changes(config, shape, card))
    found = [_suggestion(config, shape, card, change) for change in changes]
    if not any(suggestion.fits for suggestion in found):
        together = _together(config, shape, card)
        if together not in (*changes, {}):
            found.append(_on_a_card(config, shape, card, together))
    return found + [suggestion for suggestion in [_on_a_card(config, shape, card, {})] if suggestion.fits]


def _changes(config: RunConfig, shape: ModelShape, card: Card) -> Iterator[Settings]:
    """Yield the single settings that free memory."""
    if config.learner.activation_checkpointing == "none":
        yield {"learner.activation_checkpointing": "layers"}
    if has_engine(config) and not config.sampler.share_base and config.distributed.model_parallel_size == 1:
        yield {"sampler.share_base": True}
    if config.model.dtype == "float32":
        yield {"model.dtype": "bfloat16"}
    if has_engine(config) and (size := _fitting_size(config, shape, card)):
        yield {"distributed.model_parallel_size": size}
    context = _fitting_context(config, shape, card)
    if context >= LEAST_CONTEXT:
        yield {"sampler.max_context": context}


def _fitting_size(config: RunConfig, shape: ModelShape, card: Card) -> int | None:
    """Return the fewest cards of one machine that hold the base together, or the most that may help; None for none."""
    now = config.distributed.model_parallel_size
    sizes = [n for n in MODEL_PARALLEL_SIZES if n > now and shape.heads % n == 0]
    split = ((n, with_settings(config, {"distributed.model_parallel_size": n})) for n in sizes)
    return next((n for n, changed in split if least_plan(changed, shape, card).fits), sizes[-1] if sizes else None)


def _together(config: RunConfig, shape: ModelShape, card: Card) -> Settings:
    """Return all changes that leave max_context alone; a shorter context too if those are not enough."""
    settings: dict[str, int | float | bool | str] = {}
    for change in _changes(config, shape, card):
        settings |= {key: value for key, value in change.items() if key != "sampler.max_context"}
    changed = with_settings(config, settings)
    context = _fitting_context(changed, shape, card)
    if context >= LEAST_CONTEXT and not least_plan(changed, shape, card).fits:
        settings["sampler.max_context"] = context
    return settings


def _fitting_context(config: RunConfig, shape: ModelShape, card: Card) -> int:
    """Return the longest context that fits, in steps of 256; at most 0 where none does.

    The least that a run takes is linear in the context, so two points give it.
    """
    one, two = (least_plan(with_settings(config, {"sampler.max_context": n}), shape, card).n_bytes for n in (1, 2))
    longest = (card.n_bytes - (2 * one - two)) // (two - one)
    return min(longest, config.sampler.max_context) // CONTEXT_STEP * CONTEXT_STEP


def _on_a_card(config: RunConfig, shape: ModelShape, card: Card, settings: Settings) -> Suggestion:
    """Return these settings on this card or, where they are not enough, on the smallest one where they are."""
    suggestion = _suggestion(config, shape, card, settings)
    changed = with_settings(config, settings)
    cards = (Card(f"{gb}GB", gb * GB) for gb in SIZES_GB)
    larger = None if suggestion.fits else next((c for c in cards if least_plan(changed, shape, c).fits), None)
    if larger is None:
        return suggestion
    return replace(suggestion, change=f"{suggestion.change} --gpu {larger.name}".strip(), fits=True)


def _suggestion(config: RunConfig, shape: ModelShape, card: Card, settings: Settings) -> Suggestion:
    before, after = least_plan(config, shape, card), least_plan(with_settings(config, settings), shape, card)
    change = " ".join(f"--set {key}={toml_value(value)}" for key, value in settings.items())
    return Suggestion(change, before.n_bytes - after.n_bytes, after.fits)


def toml_value(value: object) -> str:
    """Return a setting as `--set` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def formatted(suggestion: Suggestion) -> str:
    """Return a suggestion as a person reads it."""
    frees = f" frees {suggestion.frees_bytes / GB:.1f} GB" if suggestion.frees_bytes else ""
    return f"{suggestion.change}{frees}{', then it fits' if suggestion.fits else ', not enough alone'}"


def refusal(plan: MemoryPlan, config: RunConfig) -> str:
    """Return why a run does not fit, and what would make it fit, in one line."""
    enough = [formatted(suggestion) for suggestion in suggest(config, plan.shape, plan.card) if suggestion.fits]
    needed, size = plan.n_bytes / GB, plan.card.n_bytes / GB
    return (
        f"{config.recipe} does not fit {plan.card.name}: it takes at least {needed:.1f} GB of {size:.1f}; "
        f"{'; or '.join(enough) or 'no setting makes it fit one card: take a smaller model'}"
    )
