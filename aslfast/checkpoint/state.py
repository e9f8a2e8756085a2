"""The training state that survives from one commit to the next, and its way into the ledger and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import msgspec

from aslfast.core import Question, Task


@dataclass(kw_only=True)
class TrainState:
    """All that a later step reads and an earlier one wrote, except weights and optimizers.

    A new field needs a type that JSON can hold (numbers, texts, tuples, dicts by text, dataclasses of them) and a
    default; its values are replaced, never changed in place. Of a dict only the entries that changed are written.
    """

    round: int = 0  # the current one; 0 evaluates the base
    phases_done: tuple[tuple[int, str], ...] = ()  # round and name
    tasks: tuple[tuple[Task, ...], ...] = ()  # of the current phase, by step: set once, when it starts
    phase_step: int = 0  # completed steps of that phase
    step: int = 0  # started steps of the run
    seconds: float = 0.0  # of the round so far, without work that a kill undid
    step_rewards: tuple[float, ...] = ()  # mean rewards of the steps of that phase
    pool: dict[str, Question] = field(default_factory=dict)  # question pool by normalised question; grows by rounds
    accuracy: dict[str, float] = field(default_factory=dict)  # of the last policy phase, by normalised question
    baselines: dict[str, tuple[float, ...]] = field(default_factory=dict)  # over steps: learner/advantages/baselines.py
    own: dict[str, str] = field(default_factory=dict)  # what phases of one's own keep: checkpoint/own_state.py
    settings: dict[str, float | int | bool | str] = field(default_factory=dict)  # set during the run, by key
    environment: str = ""  # what an environment of one's own carries from step to step, as JSON


def snapshot(state: TrainState) -> TrainState:
    """Return a copy that later changes do not affect."""
    copy = TrainState()
    restore(copy, state)
    return copy


def restore(state: TrainState, saved: TrainState) -> None:
    """Set every field of `state` to that of `saved`; dicts are copied."""
    for item in fields(TrainState):
        value = getattr(saved, item.name)
        setattr(state, item.name, dict(value) if isinstance(value, dict) else value)


def changes(before: TrainState, state: TrainState) -> dict[str, object]:
    """Return what differs from a snapshot, as JSON data; a removed entry of a dict is None."""
    found: dict[str, object] = {}
    for item in fields(TrainState):
        old, value = getattr(before, item.name), getattr(state, item.name)
        if isinstance(value, dict):
            changed = {key: value.get(key) for key in old | value if old.get(key) is not value.get(key)}
            found |= {item.name: changed} if changed else {}
        elif value != old:
            found[item.name] = value
    return msgspec.to_builtins(found)


def apply_changes(data: dict[str, object], change: Mapping[str, object]) -> None:
    """Apply one commit's changes to a state as JSON data."""
    for name, value in change.items():
        if isinstance(value, dict):
            old = data.get(name)
            entries = (old if isinstance(old, dict) else {}) | value
            data[name] = {key: entry for key, entry in entries.items() if entry is not None}
        else:
            data[name] = value


def state_from_data(data: Mapping[str, object]) -> TrainState:
    """Return the state that JSON data stands for; a missing field has its default."""
    return msgspec.convert(data, TrainState)
