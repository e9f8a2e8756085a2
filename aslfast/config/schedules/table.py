"""The tables [schedule.KEY] of a recipe, and the value that each of them gives its key at a step.

docs/recipes/schedules.md has their formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from aslfast.config.bounds import number
from aslfast.limits import MOST, MOST_STEPS

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """What one key is over a run: a curve from the first to the last of two values, or a value for each round."""

    values: tuple[float, ...] = number((), -MOST, MOST)
    shape: Literal["cosine", "linear"] = "cosine"
    over: Literal["run", "round"] = "run"  # the steps of a phase in all rounds, or in each
    warmup: int = number(0, 0, MOST_STEPS)  # steps before the curve, in which the key rises from 0 to its first value
    by_round: tuple[float, ...] = number((), -MOST, MOST)  # in place of all others; the last holds for later rounds

    def __str__(self) -> str:
        if self.by_round:
            return f"by round {', '.join(f'{value:g}' for value in self.by_round)}"
        first, last = self.values
        after = f", after {self.warmup} steps of warm-up" if self.warmup else ""
        return f"{self.shape} from {first:g} to {last:g} over each phase's steps of the {self.over}{after}"


@dataclass(frozen=True, slots=True)
class At:
    """A step: its round, from 1, and the completed steps of its phase in that round, out of `steps` at most."""

    round: int
    step: int
    steps: int


def by_round(values: Sequence[T], number: int) -> T:
    """Return the setting of a round, the first being 1; the last setting holds for all later rounds."""
    return values[min(number, len(values)) - 1]


def value_at(schedule: ScheduleConfig, at: At, rounds: int) -> float:
    """Return a key's value at a step of a run of so many rounds.

    cosine: last + (first - last) (1 + cos(pi n / N)) / 2 at step n = 0..N after the warm-up: SGDR, arXiv 1608.03983,
    equation 5, with over = "round" for its restarts. Warm-up: first (n + 1) / (warmup + 1). We differ from
    transformers' get_cosine_schedule_with_warmup: there the first step is 0, and the last value is that of the step
    after the last.
    """
    if schedule.by_round:
        return by_round(schedule.by_round, at.round)
    done, total = at.step, at.steps
    if schedule.over == "run":
        done, total = done + (at.round - 1) * at.steps, rounds * at.steps
    first, last = schedule.values
    if done < schedule.warmup:
        return first * (done + 1) / (schedule.warmup + 1)
    progress = min(1.0, (done - schedule.warmup) / max(1, total - 1 - schedule.warmup))
    if schedule.shape == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    value = (1 - progress) * first + progress * last
    return min(max(value, min(first, last)), max(first, last))  # not a rounding beyond them


def by_key(tree: object, prefix: str = "") -> object:
    """Return the tables of the tree [schedule] by their dotted keys, whether or not the recipe quotes these."""
    if not isinstance(tree, Mapping):
        return tree
    found: dict[str, object] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value and all(isinstance(inner, Mapping) for inner in value.values())
        inner = by_key(value, f"{prefix}{name}.") if nested else {prefix + name: value}
        found |= inner if isinstance(inner, dict) else {}
    return found
