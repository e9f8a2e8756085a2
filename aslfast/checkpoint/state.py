"""What a run must remember from one commit to the next: one dataclass, and its way into the ledger and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from aslfast.core import Task
from aslfast.rewards import Attempt


@dataclass(frozen=True, slots=True)
class PoolQuestion:
    """A generated question that passed the gate, with the attempts that came with it."""

    id: str
    question: str
    reference: str
    hops: int
    attempts: tuple[Attempt, ...]
    fold: int = 0  # of its source documents: see Task

    def of_round(self, number: int) -> bool:
        """Whether that round wrote it: its id is that of the generator's task."""
        return self.id.startswith(f"qg{number}-")


@dataclass(kw_only=True)
class TrainState:
    """Whatever a later step reads and an earlier one wrote stands here, but for the weights and the optimizers.

    A new field needs a type that JSON can hold (numbers, texts, tuples, dicts by text, dataclasses of them) and a
    default; its values are replaced, never changed in place. Of a dict only the entries that changed are written.
    """

    round: int = 0  # under way; 0 measures the base
    phases_done: tuple[tuple[int, str], ...] = ()  # round and name
    tasks: tuple[tuple[Task, ...], ...] = ()  # of the phase under way, by step: set once, when it begins
    phase_step: int = 0  # steps of that phase that are done
    step: int = 0  # steps of the run that were begun
    seconds: float = 0.0  # of the round so far, what a kill undid not counted
    step_rewards: tuple[float, ...] = ()  # mean rewards of the steps of that phase
    pool: dict[str, PoolQuestion] = field(default_factory=dict)  # by normalised question; grows over the rounds
    solved: dict[str, float] = field(default_factory=dict)  # of the newest policy phase: its accuracy, by question


def snapshot(state: TrainState) -> dict[str, Any]:
    """The fields by name, later changes to the state's dicts kept out."""
    values = {item.name: getattr(state, item.name) for item in fields(TrainState)}
    return {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}


def changes(before: Mapping[str, Any], state: TrainState) -> dict[str, Any]:
    """What differs from a snapshot, as JSON data; an entry of a dict that is gone is None."""
    found: dict[str, Any] = {}
    for name, value in snapshot(state).items():
        old = before[name]
        if isinstance(value, dict):
            changed = {key: value.get(key) for key in old | value if old.get(key) is not value.get(key)}
            found |= {name: changed} if changed else {}
        elif value != old:
            found[name] = value
    return msgspec.to_builtins(found)


def apply(data: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Brings a state as JSON data up to date with one commit's changes."""
    for name, value in change.items():
        if isinstance(value, dict):
            entries = data.setdefault(name, {}) | value
            data[name] = {key: entry for key, entry in entries.items() if entry is not None}
        else:
            data[name] = value


def restore(state: TrainState, values: Mapping[str, Any]) -> None:
    """Sets every field of `state` to what a snapshot holds."""
    for name, value in values.items():
        setattr(state, name, dict(value) if isinstance(value, dict) else value)


def of_data(data: Mapping[str, Any]) -> TrainState:
    """The state that JSON data stands for; a field that is not in it has its default."""
    return msgspec.convert(data, TrainState)
