"""The phases that a round may have: whose tasks, how a group is gathered, when it is over."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aslfast.config.schema import GeneratorConfig, GrmConfig, PolicyConfig, RunConfig
from aslfast.core import SECOND_JUDGE, Group, Role, Task
from aslfast.rounds.context import Loop
from aslfast.rounds.early_stopping import plateaued
from aslfast.rounds.generator_phase import drop_near_duplicates, enough_questions, generator_tasks, question_group
from aslfast.rounds.judge_phase import verdict_group, verification_tasks
from aslfast.rounds.policy_phase import answer_group, note_solved, policy_tasks


def _nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Phase:
    """A phase has the name of the adapter that it trains."""

    name: str
    role: Role
    config: GeneratorConfig | GrmConfig | PolicyConfig
    tasks_of: Callable[[Loop], Sequence[Sequence[Task]]]  # by step
    group_of: Callable[[Loop, Task], Coroutine[Any, Any, Group]]
    is_over: Callable[[Loop], bool]  # before its last step
    note: Callable[[Loop, Sequence[Group]], None] = _nothing  # after each step
    close: Callable[[Loop], None] = _nothing


def phases_of(config: RunConfig) -> list[Phase]:
    """In the recipe's order; with two judges each of them has a phase."""
    return [phase for role in config.phases for phase in _PHASES[role](config)]


def _generator(config: RunConfig) -> list[Phase]:
    own = config.generator
    return [
        Phase(
            "generator", "generator", own, generator_tasks, question_group, enough_questions, close=drop_near_duplicates
        )
    ]


def _grm(config: RunConfig) -> list[Phase]:
    own, over = config.grm, partial(_plateau, window=config.grm.plateau_window)
    names = ("grm", SECOND_JUDGE)[: own.folds]
    return [
        Phase(name, "grm", own, partial(verification_tasks, fold=fold if own.folds > 1 else 0), verdict_group, over)
        for fold, name in enumerate(names, 1)
    ]


def _policy(config: RunConfig) -> list[Phase]:
    own, over = config.policy, partial(_plateau, window=config.policy.plateau_window)
    return [Phase("policy", "policy", own, policy_tasks, answer_group, over, note_solved)]


_PHASES: dict[str, Callable[[RunConfig], list[Phase]]] = {"generator": _generator, "grm": _grm, "policy": _policy}


def _plateau(loop: Loop, window: int) -> bool:
    return window > 0 and plateaued(loop.step_rewards, window)
