"""The phases that a round may have: their tasks, how a group is gathered, and when they end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aslfast.checkpoint.state import TrainState
from aslfast.config import RunConfig
from aslfast.config.schema import GeneratorConfig, GrmConfig, PolicyConfig
from aslfast.core import SECOND_JUDGE, Group, Role, Task
from aslfast.rollout.context import RolloutContext
from aslfast.rounds.context import TaskContext
from aslfast.rounds.generator_phase import (
    drop_near_duplicates,
    generator_tasks,
    question_group,
    target_reached,
)
from aslfast.rounds.group_result import GroupResult
from aslfast.rounds.judge_phase import verdict_group, verification_tasks
from aslfast.rounds.policy_phase import answer_group, policy_tasks, record_accuracy
from aslfast.rounds.schedule import plateaued


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Phase:
    """One phase of a round, named after the adapter that it trains."""

    name: str
    role: Role
    config: GeneratorConfig | GrmConfig | PolicyConfig
    tasks_of: Callable[[TaskContext], Sequence[Sequence[Task]]]  # by step
    group_of: Callable[[RolloutContext, Task], Coroutine[Any, Any, GroupResult]]
    is_over: Callable[[TrainState], bool]  # before its last step
    after_step: Callable[[TrainState, Sequence[Group]], None] = _nothing
    after_phase: Callable[[TrainState], None] = _nothing


def phases_of(config: RunConfig) -> list[Phase]:
    """Return a round's phases in the recipe's order; with two judges each of them has a phase."""
    return [phase for role in config.role_phases for phase in _PHASES[role](config)]


def _generator(config: RunConfig) -> list[Phase]:
    over = partial(target_reached, targets=config.generator.target_questions)
    return [
        Phase("generator", "generator", config.generator, generator_tasks, question_group, over,
              after_phase=drop_near_duplicates)
    ]  # fmt: skip


def _grm(config: RunConfig) -> list[Phase]:
    own, over = config.grm, partial(_plateau, window=config.grm.plateau_window)
    names = ("grm", SECOND_JUDGE)[: own.folds]
    return [
        Phase(name, "grm", own, partial(verification_tasks, fold=fold if own.folds > 1 else 0), verdict_group, over)
        for fold, name in enumerate(names, 1)
    ]


def _policy(config: RunConfig) -> list[Phase]:
    own, over = config.policy, partial(_plateau, window=config.policy.plateau_window)
    return [Phase("policy", "policy", own, policy_tasks, answer_group, over, record_accuracy)]


_PHASES: dict[str, Callable[[RunConfig], list[Phase]]] = {"generator": _generator, "grm": _grm, "policy": _policy}


def _plateau(state: TrainState, window: int) -> bool:
    return window > 0 and plateaued(state.step_rewards, window)
