"""The policy's phase: attempts at the pool's questions, or at labelled ones, each judged or scored by a rule."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from aslfast import rewards
from aslfast.checkpoint.state import TrainState
from aslfast.core import Group, Question, StopReason, Task, Trajectory
from aslfast.rollout.context import RolloutContext
from aslfast.rounds.group_result import GroupResult
from aslfast.rounds.schedule import cycled
from aslfast.rounds.task_context import TaskContext
from aslfast.systems.asl.judge import judge_of, prompts_of

Verdicts: TypeAlias = tuple[str | None, ...]


def policy_tasks(context: TaskContext) -> list[list[Task]]:
    """Return the phase's tasks by step, from the question pool or from the labelled questions; repeated as needed."""
    config, number = context.config.policy, context.state.round
    if config.question_source == "labelled":
        labelled = list(context.data.real_questions)
        asked = context.rng("policy").sample(labelled, len(labelled))[: config.max_questions or None]
    else:
        asked = pool_questions(context)
    prompts = prompts_of(context.config)
    tasks = [prompts.policy(f"p{number}-{i}-{question.id}", question) for i, question in enumerate(asked)]
    return cycled(tasks, config.steps, config.prompts_per_step)


def pool_questions(context: TaskContext) -> list[Question]:
    """Return questions of the pool, hops in turn, the newest round's first where there are more than needed."""
    rng, most, now = context.rng("policy"), context.config.policy.max_questions, context.state.round
    newest = sorted(context.state.pool.values(), key=lambda q: (q.round != now, rng.random()))
    by_hops: dict[int, list[Question]] = {}
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
    group = Group.of([(t, r) for (t, _), r in zip(attempts, given, strict=True)])
    return GroupResult((group,), context.counters)


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
    question = Question(task.id, task.question, task.references, task.hops, task.fold)
    given = await judge_of(context).verdicts(f"{task.id}{number}-v", question, trajectory.output, verdicts)
    return trajectory, given if given or not verdicts else None
