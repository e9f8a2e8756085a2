"""Evaluation against the ground truth: the three roles on held-out tasks, the same ones in every round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from aslfast.config.roles import adapter_of
from aslfast.core import Task, Trajectory
from aslfast.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from aslfast.metrics import judge_probe, scoring
from aslfast.metrics.scoring import Scores
from aslfast.rollout.multi_turn import Rollout, gather_bounded, stable_seed
from aslfast.rounds import replicas
from aslfast.rounds.context import RoundContext
from aslfast.trainer.build import build_tools
from aslfast.trainer.datasets import Datasets


@dataclass(frozen=True)
class Evaluation:
    """Plays tasks, one trajectory each: with their role's adapter, or with the base alone (`adapters` false).

    done: called with each trajectory. version: of the adapters, recorded in the trajectories.
    """

    rollout: Rollout
    seed: int
    max_concurrent: int
    adapters: bool = True
    version: int = 0
    done: Callable[[Trajectory], None] = lambda _: None
    ranks: ProcessGroup = SINGLE_PROCESS

    def known(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks of roles that the recipe has."""
        return [task for task in tasks if task.role in self.rollout.roles]

    async def play(self, tasks: Sequence[Task]) -> list[Trajectory]:
        """Return one trajectory per task, in order; each rank plays its part of them."""
        return await replicas.play_tasks(self.ranks, tasks, self._play_own)

    async def _play_own(self, tasks: Sequence[Task]) -> list[Trajectory]:
        return await gather_bounded([lambda task=task: self._one(task) for task in tasks], self.max_concurrent)

    async def _one(self, task: Task) -> Trajectory:
        adapter = adapter_of(self.rollout.roles, task.role) if self.adapters else None
        trajectory = await self.rollout.run(task, 0, self.seed, adapter, self.version)
        self.done(trajectory)
        return trajectory


async def evaluate(context: RoundContext, datasets: Datasets) -> Scores:
    """Return the scores of the three roles, on the same held-out tasks with the same seeds in every round."""
    config = context.config
    context.rollout.sampler.flush()
    evaluation = Evaluation(
        replace(context.rollout, tool=build_tools(config, datasets.eval_index)),
        stable_seed(config.seed, "evaluation"), 2 * config.sampler.max_running_requests,
        done=lambda trajectory: context.observer.trajectory(trajectory.n_sampled), ranks=context.learner.ranks,
    )  # fmt: skip
    judged = config.policy.verdicts_per_answer > 0 and "grm" in config.roles  # else no reward comes from a judge
    probe = judge_probe.JudgeProbe(config) if judged and config.monitor.judge_probe else None
    return await ground_truth_scores(evaluation, datasets, probe)


async def ground_truth_scores(
    evaluation: Evaluation, datasets: Datasets, probe: judge_probe.JudgeProbe | None = None
) -> Scores:
    """Return the scores of every role that the datasets can score; None for those of the others.

    The judge probe comes last, so that the bits of the rest do not depend on it.
    """
    answered = await evaluation.play(datasets.policy_evals)
    scores: Scores = {**scoring.policy_scores(answered), "grm_accuracy": None, "solvable_share": None}
    if judgements := evaluation.known(datasets.grm_evals):
        scores |= scoring.grm_scores(await evaluation.play(judgements))
    if (topics := evaluation.known(datasets.generator_evals)) and datasets.oracle:
        written = await evaluation.play(topics)
        scores |= scoring.generator_scores(written, datasets.oracle)
    return {**await probe.evaluate(answered, evaluation.play), **scores} if probe else scores
