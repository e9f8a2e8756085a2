"""The policy's phase: attempts at the pool's questions, or at labelled ones, each judged or scored by a rule."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from aslfast import rewards
from aslfast.checkpoint.state import PoolQuestion, TrainState
from aslfast.core import Group, StopReason, Task, Trajectory
from aslfast.prompts import role_tasks
from aslfast.rollout.context import RolloutContext
from aslfast.rounds.context import TaskContext
from aslfast.rounds.group_result import GroupResult
from aslfast.rounds.schedule import cycled

Verdicts: TypeAlias = tuple[str | None, ...]


def policy_tasks(context: TaskContext) -> list[list[Task]]:
    """Return the phase's tasks by step, from the question pool or from the labelled questions; repeated as needed."""
    config, prompts, number = context.config.policy, context.config.model.prompts, context.state.round
    if config.question_source == "labelled":
        labelled = list(context.data.labelled)
        drawn = context.rng("policy").sample(labelled, len(labelled))[: config.max_questions or None]
        asked = [(q.id, q.question, q.answers, q.hops, 0) for q in drawn]
    else:
        asked = [(q.id, q.question, (q.reference,), q.hops, q.fold) for q in pool_questions(context)]
    tasks = [
        role_tasks.policy_task(f"p{number}-{i}-{name}", question, prompts, references, hops, fold)
        for i, (name, question, references, hops, fold) in enumerate(asked)
    ]
    return cycled(tasks, config.steps, config.prompts_per_step)


def pool_questions(context: TaskContext) -> list[PoolQuestion]:
    """Return questions of the pool, hops in turn, the newest round's first where there are more than needed."""
    rng, most, now = context.rng("policy"), context.config.policy.max_questions, context.state.round
    newest = sorted(context.state.pool.values(), key=lambda q: (q.round != now, rng.random()))
    by_hops: dict[int, list[PoolQuestion]] = {}
    for question in newest:
        by_hops.setdefault(question.hops, []).append(question)
    turns = max(map(len, by_hops.values()), default=0)
    chosen = [by_hops[hops][i % len(by_hops[hops])] for i in range(turns) for hops in sorted(by_hops)]
    if not most:
        return chosen
    return list({question.id: question for question in chosen}.values())[:most]


async def answer_group(context: RolloutContext, task: Task) -> GroupResult:
    """Play one task: several attempts, each with its verdicts and its reward."""
    config, weight = context.config.policy, context.config.format_weight
    attempts = await asyncio.gather(
        *(play_attempt(context, task, i, config.verdicts_per_answer) for i in range(config.group_size))
    )
    given = [None if v is None else rewards.policy_reward(t, v, weight, config.reward) for t, v in attempts]
    return GroupResult(Group.of([(t, r) for (t, _), r in zip(attempts, given, strict=True)]), context.counters)


def record_accuracy(state: TrainState, groups: Sequence[Group]) -> None:
    """Record the mean reward, its format part aside, of each question's attempts, for the generator to vary it by.

    The accuracies are those of the newest phase alone.
    """
    accuracy = dict(state.accuracy) if state.phase_step else {}
    for group in groups:
        if group.rewards:
            values = [reward.total - reward.parts["format"] for reward in group.rewards]
            accuracy[rewards.normalize(group.trajectories[0].task.question)] = sum(values) / len(values)
    state.accuracy = accuracy


async def play_attempt(
    context: RolloutContext, task: Task, number: int, verdicts: int
) -> tuple[Trajectory, Verdicts | None]:
    """Return one policy trajectory and the judge's `verdicts` verdicts on its answer.

    Each is None where there is no answer; there is no tuple where the tool failed the attempt or all of its judges.
    """
    trajectory = await context.sample(task, number)
    if trajectory.stop is StopReason.TOOL_FAILED:
        return trajectory, None
    if trajectory.output is None:
        return trajectory, (None,) * verdicts
    name, reference = f"{task.id}{number}-v", next(iter(task.references), "")
    judge = context.judge
    given = await judge.verdicts(name, task.question, trajectory.output, reference, verdicts, task.fold)
    return trajectory, given if given or not verdicts else None
