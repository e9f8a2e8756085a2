"""Open an environment of one's own and try it, before anything is written."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from aslfast import plugins
from aslfast.config import RunConfig
from aslfast.core import Question, StopReason, Task, Trajectory
from aslfast.environment import Environment
from aslfast.errors import UserError
from aslfast.prompts.builder import PromptBuilder
from aslfast.rewards import ENVIRONMENT
from aslfast.rollout.environments.own_environment import SETUP_S, CallFailedError, OwnEnvironment

TRIED = 3  # tasks whose episodes are opened
REPLY = "hello"  # what the policy says in them


def open_environment(config: RunConfig, notify: Callable[[str], None] = lambda _: None) -> OwnEnvironment:
    """Return the environment that the configuration names: made, asked for its tasks, an episode of it played.

    notify: called with a warning where two episodes of the same task and seed differ, and with failures in the run.
    Raise UserError.
    """
    made = plugins.make_instance(config.environment, "environment", Environment, [config], SETUP_S)
    environment = OwnEnvironment(
        config.environment, made, config.tool.timeout_s, config.tool.give_up_after_s,
        config.tool.max_passage_chars, notify,
    )  # fmt: skip
    tasks, evals = environment.tasks(), environment.eval_tasks()
    _check_together(config, environment, bool(tasks))
    _check_ids(environment.name, evals)
    _try_episodes(environment, config, [*tasks[:TRIED], *evals[:TRIED]])
    return environment


def _check_together(config: RunConfig, environment: OwnEnvironment, has_tasks: bool) -> None:
    """Raise UserError where the recipe wants what the environment does not give."""
    name, asks = f"environment: {config.environment}", config.policy.question_source == "labelled"
    if config.policy.reward == ENVIRONMENT and not environment.plays:
        raise UserError(f"{name} has neither reward nor reset, and policy.reward is {ENVIRONMENT!r}; write one of them")
    if not environment.topics() and ("generator" in config.round_phases or not asks):
        what = 'set policy.question_source=labelled and phases=["policy"] to train on its tasks'
        raise UserError(f"{name} gives no topics to ask about; {what}")
    if asks and not has_tasks:
        raise UserError(f"{name}.tasks returned none, and policy.question_source is labelled")


def _check_ids(name: str, evals: list[Question]) -> None:
    """Raise UserError unless there are tasks to evaluate on, each with an id of its own: their seeds follow from it."""
    if not evals:
        raise UserError(f"environment: {name}.eval_tasks returned none; return at least one task to evaluate on")
    twice = [
        first.id for first, second in itertools.pairwise(sorted(evals, key=lambda q: q.id)) if first.id == second.id
    ]
    if twice:
        raise UserError(f"environment: {name}.eval_tasks returned two tasks with the id {twice[0]!r}; number them")


def _try_episodes(environment: OwnEnvironment, config: RunConfig, tried: list[Question]) -> None:
    """Raise UserError where an episode or a reward fails, or moves what `state` returns."""
    state, builder = environment.saved_state(), PromptBuilder(config.model.prompts)
    environment.restore_saved(state)
    try:
        for question in tried:
            _try_episode(environment, builder.policy("trial", question))
    except CallFailedError as error:
        raise UserError(f"environment: {error}") from None
    environment.check_unmoved(state)


def _try_episode(environment: OwnEnvironment, task: Task) -> None:
    """Play an episode twice, for a turn, and reward it. Raise CallFailedError."""
    first, again = environment.opened(task, 0), environment.opened(task, 0)
    if (first and first.observation) != (again and again.observation):
        what = "two episodes of the same task and seed differ: no resume is exact; draw from random.Random(seed)"
        environment.notify(f"environment: {environment.name}.reset: {what}")
    reward = 0.0
    if first:
        first.take(REPLY)
        reward = first.reward
    trajectory = Trajectory(task, (0,), (0,), (0.0,), (), StopReason.NO_OUTPUT, environment_reward=reward)
    environment.reward_of(trajectory)
