"""What a round is made of: a phase has tasks, a way to play one, and an end. Systems (aslfast/systems) define them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aslfast.checkpoint.state import TrainState
from aslfast.core import Group, Task
from aslfast.metrics.health import Oracle
from aslfast.rollout.context import RolloutContext
from aslfast.rounds.control import Control
from aslfast.rounds.group_result import GroupResult
from aslfast.rounds.task_context import TaskContext


class PhaseSettings(Protocol):
    """What every phase's table in the configuration has."""

    @property
    def steps(self) -> int:
        """The most optimizer steps a round."""
        ...

    @property
    def learn(self) -> bool:
        """Whether the adapter learns; else the phase does only what the next ones need."""
        ...


def never(state: TrainState) -> bool:
    """Return False: the phase takes all of its steps."""
    return False


def nothing(*_: object) -> None:
    """Do nothing."""


def no_health(groups: Sequence[Group], oracle: Oracle | None) -> Mapping[str, float | None]:
    """Return no metrics beyond those of every role."""
    return {}


@dataclass(frozen=True)
class Phase:
    """One phase of a round. adapters: those that it trains, in the order of their updates."""

    name: str
    settings: PhaseSettings
    adapters: tuple[str, ...]
    tasks_of: Callable[[TaskContext], Sequence[Sequence[Task]]]  # by step
    group_of: Callable[[RolloutContext, Task], Coroutine[Any, Any, GroupResult]]
    is_over: Callable[[TrainState], bool] = never  # before its last step
    after_step: Callable[[TrainState, Sequence[Group]], None] = nothing
    after_phase: Callable[[TrainState], None] = nothing
    health: Callable[[Sequence[Group], Oracle | None], Mapping[str, float | None]] = no_health  # of a step
    # the tasks of the next step, where they are chosen just before it; tasks_of then says how many steps there are
    tasks_now: Callable[[TaskContext], Sequence[Task]] | None = None
    # groups as they were played -> groups to learn from
    learn_from: Callable[[Control, Sequence[Group]], Coroutine[Any, Any, Sequence[Group]]] | None = None
    conclude: Callable[[Control], Coroutine[Any, Any, None]] | None = None  # after the last step
    in_environment: bool = False  # an environment of one's own answers its role, and learns from its steps
