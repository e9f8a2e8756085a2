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
    """A generated question that passed the acceptance filter, with the policy's attempts at it."""

    id: str
    question: str
    reference: str
    hops: int
    attempts: tuple[Attempt, ...]
    fold: int = 0  # of its source documents: see Task
    round: int = 0  # that wrote it


@dataclass(kw_only=True)
class TrainState:
    """All that a later step reads and an earlier one wrote, except weights and optimizers.

    A new field needs a type that JSON can hold (numbers, texts, tuples, dicts by text, dataclasses of them) and a
    default; its values are replaced, never changed in place. Of a dict only the entries that changed are written.
    """

    round: int = 0  # under way; 0 evaluates the base
    phases_done: tuple[tuple[int, str], ...] = ()  # round and name
    tasks: tuple[tuple[Task, ...], ...] = ()  # of the phase under way, by step: set once, when it starts
    phase_step: int = 0  # steps of that phase that are done
    step: int = 0  # steps of the run that were started
    seconds: float = 0.0  # of the round so far, without what a kill undid
    step_rewards: tuple[float, ...] = ()  # mean rewards of the steps of that phase
    pool: dict[str, PoolQuestion] = field(default_factory=dict)  # by normalised question; grows over the rounds
    accuracy: dict[str, float] = field(default_factory=dict)  # of the newest policy phase, by normalised question


def snapshot(state: TrainState) -> dict[str, Any]:
    """Return the fields by name, with copies of the dicts, so that later changes stay out."""
    values = {item.name: getattr(state, item.name) for item in fields(TrainState)}
    return {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}


def changes(before: Mapping[str, Any], state: TrainState) -> dict[str, Any]:
    """Return what differs from a snapshot, as JSON data; an entry of a dict that is gone is None."""
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
    """Bring a state, as JSON data, up to date with one commit's changes."""
    for name, value in change.items():
        if isinstance(value, dict):
            entries = data.setdefault(name, {}) | value
            data[name] = {key: entry for key, entry in entries.items() if entry is not None}
        else:
            data[name] = value


def restore(state: TrainState, values: Mapping[str, Any]) -> None:
    """Set every field of `state` to what a snapshot holds."""
    for name, value in values.items():
        setattr(state, name, dict(value) if isinstance(value, dict) else value)


def of_data(data: Mapping[str, Any]) -> TrainState:
    """Return the state that JSON data stands for; a missing field has its default."""
    return msgspec.convert(data, TrainState)
