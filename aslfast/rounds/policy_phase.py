"""The policy's phase: attempts at the pool's questions, or at labelled ones, each judged or measured by a rule."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from aslfast import rewards
from aslfast.checkpoint.state import PoolQuestion
from aslfast.core import Group, StopReason, Task, Trajectory
from aslfast.prompts import role_tasks
from aslfast.rounds.context import Loop
from aslfast.rounds.schedule import cycled

Verdicts: TypeAlias = tuple[str | None, ...]


def policy_tasks(loop: Loop) -> list[list[Task]]:
    """From the pool or from the labelled questions, as the recipe says; repeated as needed."""
    config, prompts = loop.config.policy, loop.config.model.prompts
    if config.question_source == "labelled":
        drawn = loop.rng("policy").sample(list(loop.labelled), len(loop.labelled))[: config.max_questions or None]
        asked = [(q.id, q.question, q.answers, q.hops, 0) for q in drawn]
    else:
        asked = [(q.id, q.question, (q.reference,), q.hops, q.fold) for q in pool_questions(loop)]
    tasks = [
        role_tasks.policy_task(f"p{loop.round}-{i}-{name}", question, prompts, references, hops, fold)
        for i, (name, question, references, hops, fold) in enumerate(asked)
    ]
    return cycled(tasks, config.steps, config.prompts_per_step)


def pool_questions(loop: Loop) -> list[PoolQuestion]:
    """Questions of the pool, the numbers of hops in turn, the newest rounds first where there are more than needed."""
    rng, most = loop.rng("policy"), loop.config.policy.max_questions
    newest = sorted(loop.pool.values(), key=lambda q: (not q.of_round(loop.round), rng.random()))
    by_hops: dict[int, list[PoolQuestion]] = {}
    for question in newest:
        by_hops.setdefault(question.hops, []).append(question)
    turns = max(map(len, by_hops.values()), default=0)
    chosen = [by_hops[hops][i % len(by_hops[hops])] for i in range(turns) for hops in sorted(by_hops)]
    if not most:
        return chosen
    return list({question.id: question for question in chosen}.values())[:most]


async def answer_group(loop: Loop, task: Task) -> Group:
    config = loop.config.policy
    tried = await asyncio.gather(
        *(attempt(loop, task, i, config.verdicts_per_answer) for i in range(config.group_size))
    )
    weight = loop.config.format_weight
    given = [None if v is None else rewards.policy_reward(t, v, weight, config.reward) for t, v in tried]
    return Group.of([(t, r) for (t, _), r in zip(tried, given, strict=True)])


def note_solved(loop: Loop, groups: Sequence[Group]) -> None:
    """How much of each question's attempts was paid, for the generator to vary it by; of the newest phase alone."""
    if not loop.step_rewards:
        loop.solved = {}
    for group in groups:
        if group.rewards:
            paid = [reward.total - reward.parts["format"] for reward in group.rewards]
            loop.solved[rewards.normalize(group.trajectories[0].task.question)] = sum(paid) / len(paid)


async def attempt(loop: Loop, task: Task, number: int, verdicts: int) -> tuple[Trajectory, Verdicts | None]:
    """One policy trajectory and the judge's verdicts on its answer: None each where there is no answer; no tuple where
    the tool failed the attempt or all of its judges."""
    trajectory = await loop.sample(task, number)
    if trajectory.stop is StopReason.TOOL_FAILED:
        return trajectory, None
    if trajectory.output is None:
        return trajectory, (None,) * verdicts
    name, reference = f"{task.id}{number}-v", next(iter(task.references), "")
    given = await loop.judging.verdicts(name, task.question, trajectory.output, reference, verdicts, task.fold)
    return trajectory, given if given or not verdicts else None
