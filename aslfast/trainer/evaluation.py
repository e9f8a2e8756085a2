"""The truth about a run: the three roles on held-out tasks that nobody learns from, in every round the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from aslfast.core import Task, Trajectory
from aslfast.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from aslfast.metrics import judge_probe, scoring
from aslfast.rollout.multi_turn import Rollout, bounded, stable_seed
from aslfast.rounds import replicas
from aslfast.rounds.context import Loop
from aslfast.trainer.build import build_search_tool
from aslfast.trainer.datasets import Environment


async def measure(loop: Loop, environment: Environment, done: Callable[[Trajectory], None]) -> dict[str, Any]:
    """The three roles against the truth, on the same held-out tasks with the same seeds in every round."""
    config = loop.config
    loop.flush()
    rollout = replace(loop.rollout, tool=build_search_tool(config, environment.eval_index))
    seed, at_once = stable_seed(config.seed, "evaluation"), 2 * config.sampler.max_running_requests
    judged = config.policy.verdicts_per_answer > 0  # else no judge pays anyone
    probe = judge_probe.JudgeProbe(config) if judged and config.monitor.judge_probe else None
    return await ground_truth_scores(rollout, environment, seed, at_once, done=done, probe=probe, ranks=loop.ranks)


async def ground_truth_scores(
    rollout: Rollout, environment: Environment, seed: int, at_once: int, adapters: bool = True,
    done: Callable[[Trajectory], None] | None = None, probe: judge_probe.JudgeProbe | None = None, ranks: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, Any]:  # fmt: skip
    """The scores of every role that the environment can measure; None for those of the others. The probe comes last, so
    that it moves no bit of the rest."""

    async def play(tasks: Sequence[Task]) -> list[Trajectory]:
        return await replicas.played(ranks, tasks, lambda own: run_all(rollout, own, seed, at_once, adapters, done))

    answered = await play(environment.policy_evals)
    scores = scoring.policy_scores(answered)
    scores |= {"grm_accuracy": None, "solvable_share": None}
    if environment.grm_evals:
        scores |= scoring.grm_scores(await play(environment.grm_evals))
    if environment.generator_evals and environment.oracle:
        written = await play(environment.generator_evals)
        scores |= scoring.generator_scores(written, environment.oracle)
    return {**await probe.evaluate(answered, play), **scores} if probe else scores


async def run_all(
    rollout: Rollout, tasks: Sequence[Task], seed: int, at_once: int, adapters: bool = True,
    done: Callable[[Trajectory], None] | None = None, version: int = 0,
) -> list[Trajectory]:  # fmt: skip
    """One trajectory a task, each with its role's adapter (or all with the base), in order."""

    async def one(task: Task) -> Trajectory:
        trajectory = await rollout.run(task, 0, seed, task.adapter if adapters else None, version)
        if done:
            done(trajectory)
        return trajectory

    return await bounded([lambda task=task: one(task) for task in tasks], at_once)
