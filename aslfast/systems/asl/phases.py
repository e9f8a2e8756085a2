"""The three phases of Agentic Self-Learning (arXiv 2510.14253), and of recipes with some of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from aslfast.checkpoint.state import TrainState
from aslfast.config import RunConfig
from aslfast.metrics.health import answer_health, question_health
from aslfast.prompts.builder import SECOND_JUDGE
from aslfast.rounds.phase import Phase
from aslfast.rounds.schedule import plateaued
from aslfast.systems.asl.generator_phase import (
    drop_near_duplicates,
    generator_tasks,
    question_group,
    target_reached,
)
from aslfast.systems.asl.judge_phase import verdict_group, verification_tasks
from aslfast.systems.asl.policy_phase import answer_group, policy_tasks, record_accuracy


def asl_phases(config: RunConfig, name: str) -> list[Phase]:
    """Return the phase of this name; with two judges one for each of them."""
    return _PHASES[name](config)


def _generator(config: RunConfig) -> list[Phase]:
    over = partial(target_reached, targets=config.generator.target_questions)
    return [
        Phase("generator", config.generator, config.adapters_of(["generator"]), generator_tasks, question_group, over,
              after_phase=drop_near_duplicates, health=question_health)
    ]  # fmt: skip


def _grm(config: RunConfig) -> list[Phase]:
    own, over = config.grm, partial(_plateau, window=config.grm.plateau_window)
    names = ("grm", SECOND_JUDGE)[: own.folds]
    return [
        Phase(name, own, config.adapters_of([name]), partial(verification_tasks, fold=fold * (own.folds > 1)),
              verdict_group, over)
        for fold, name in enumerate(names, 1)
    ]  # fmt: skip


def _policy(config: RunConfig) -> list[Phase]:
    own, over = config.policy, partial(_plateau, window=config.policy.plateau_window)
    return [
        Phase("policy", own, config.adapters_of(["policy"]), policy_tasks, answer_group, over, record_accuracy,
              health=answer_health, in_environment=True)
    ]  # fmt: skip


_PHASES: dict[str, Callable[[RunConfig], list[Phase]]] = {"generator": _generator, "grm": _grm, "policy": _policy}


def _plateau(state: TrainState, window: int) -> bool:
    return window > 0 and plateaued(state.step_rewards, window)
