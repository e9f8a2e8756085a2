"""One generator step, played by three schedules: as a graph, turn by turn, role by role."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from aslfast.config import RunConfig
from aslfast.config.roles import ROLES
from aslfast.core import Question, Task, Trajectory
from aslfast.rollout.context import RolloutContext, max_concurrent
from aslfast.rollout.multi_turn import stable_seed
from aslfast.rollout.priority_semaphore import PrioritySemaphore
from aslfast.sampler.prefix_cache_stats import PrefixCacheMeter
from aslfast.systems.asl.generator_phase import question_group
from aslfast.systems.asl.judge import prompts_of
from bench.rollout.long_tailed import Barrier, LongTailed

Job: TypeAlias = tuple[Task, int]  # a task and the number of its trajectory
Stage: TypeAlias = Callable[[Sequence[Job]], Coroutine[Any, Any, list[Trajectory]]]
BeforeStage: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class ForcedStep:
    """One generator step, ready to be played once. Each repeat needs a new one, of the same seeds; nothing learns."""

    context: RolloutContext
    rollout: LongTailed  # the context's
    prefix_cache: PrefixCacheMeter  # the rollout's sampler
    tasks: Sequence[Task]

    @classmethod
    def of(cls, config: RunConfig, rollout: LongTailed, tasks: Sequence[Task]) -> ForcedStep:
        """Return the step of these tasks over the rollout's sampler."""
        versions: dict[str, int] = dict.fromkeys(ROLES, 0)
        prefix_cache, limit = PrefixCacheMeter(rollout.sampler, versions), PrioritySemaphore(max_concurrent(config))
        rollout, seed = replace(rollout, sampler=prefix_cache), stable_seed(config.seed, 0, 0)
        return cls(RolloutContext(config, rollout, limit, versions, 0, seed), rollout, prefix_cache, tasks)


async def as_graph(step: ForcedStep) -> None:
    """Play the step as training does: without a barrier."""
    await asyncio.gather(*(question_group(step.context.for_group(), task) for task in step.tasks))


async def turn_by_turn(step: ForcedStep) -> None:
    """Play the step as batch frameworks do: all questions, then all attempts, then all verdicts.

    In a stage every turn, and every search, waits for those of all other trajectories. Trajectories bypass the
    concurrency limit, since a barrier would wait forever for those outside.
    """

    async def stage(jobs: Sequence[Job]) -> list[Trajectory]:
        rollout, seed = replace(step.rollout, barrier=Barrier(len(jobs))), step.context.seed
        return await asyncio.gather(*(rollout.run(task, number, seed, task.role) for task, number in jobs))

    await _play_stages(step, stage)


async def role_by_role(step: ForcedStep, before: BeforeStage) -> None:
    """Play one stage for each role's weights, without a barrier in it. `before` loads the weights of a role."""

    async def stage(jobs: Sequence[Job]) -> list[Trajectory]:
        before(jobs[0][0].role)
        return await asyncio.gather(*(step.context.sample(task, number) for task, number in jobs))

    await _play_stages(step, stage)


async def _play_stages(step: ForcedStep, stage: Stage) -> None:
    """Play the trajectories of `question_group`, by the same names and so of the same lengths, in three stages."""
    config, builder = step.context.config.generator, prompts_of(step.context.config)
    jobs = [(task, i) for task in step.tasks for i in range(config.group_size)]
    policy_tasks, checks = [], []
    for (task, number), written in zip(jobs, await stage(jobs), strict=True):
        answer, name = written.output_answer or "", f"{task.id}-{number}"
        question = Question(name, written.output or "", (answer,), task.hops)
        policy_tasks.append(builder.policy(f"{name}-p", question))
        checks.append(builder.judge(f"{name}-c", question, answer))
    attempts = [(task, i) for task in policy_tasks for i in range(config.rollouts_per_question)]
    judged = [(check, i) for check in checks for i in range(config.self_checks)]
    for (task, number), attempt in zip(attempts, await stage(attempts), strict=True):
        question = Question(task.id, task.question, task.references)
        judged.append((builder.judge(f"{task.id}{number}-v", question, attempt.output or ""), 0))
    await stage(judged)
