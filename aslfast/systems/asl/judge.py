"""Verdicts on answers: one request each or, if the recipe says so, one for all equal answers of a step.

Sharing (`grm.share_verdicts`): within a step, answers to the same question that are equal when normalised get the
same i-th verdict, from one request; the judge reads the spelling that came first. Let p(a) be the probability that the
judge calls answer a correct, and v_k the verdict on the k-th attempt.

- Policy reward: E[v_k | a_k] = p(a_k) with and without sharing, so mean rewards stay unbiased. The verdicts of equal
  answers, independent otherwise, become one draw: over m equal answers the mean has variance p(1-p) instead of
  p(1-p)/m. Within a group equal answers then get equal rewards (the judge's noise no longer separates them), but one
  error of the judge affects all of them: noise between different answers no longer averages out.
- Generator reward: the entropy H of the fraction of `correct` among K attempts. Shared, the fraction has the same mean
  and is a mean-preserving spread of the unshared one; H is concave, so E[H] can only fall. The difference is the
  judge's own indecision: K equal answers and p = 1/2 give nearly ln 2 unshared and exactly 0 shared. Shared entropy
  rewards attempts that disagree, unshared entropy also a judge that cannot decide. It is another reward.
- Labels by majority: m equal answers have one vote, not m.
- Self checks are never shared, neither with each other (they are the acceptance filter's independent samples) nor with
  attempts: given a question that passed the acceptance filter, its checks lean to `correct`, and an attempt that reused
  one would be biased.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from aslfast import rewards
from aslfast.clock import CLOCK
from aslfast.config import RunConfig
from aslfast.core import Question, StopReason, Task, Trajectory
from aslfast.prompts.builder import PromptBuilder
from aslfast.rollout.context import RolloutContext
from aslfast.rollout.counters import StepCounters
from aslfast.rollout.multi_turn import stable_seed

SampleTask = Callable[[Task, int], Awaitable[Trajectory]]  # (task, number) -> the number-th trajectory of the task
VerdictCache = dict[Hashable, Awaitable[Trajectory]]  # the judge's trajectories, running or done


def prompts_of(config: RunConfig) -> PromptBuilder:
    """Return what makes the tasks of the three roles."""
    return PromptBuilder(config.model.prompts, config.grm.variant)


def judge_of(context: RolloutContext) -> Judge:
    """Return the judge, with the context's counters."""
    config = context.config
    return Judge(context.sample, prompts_of(config), config.grm.share_verdicts, context.shared, context.counters)


def other_fold(fold: int) -> int:
    """Return the fold whose judge scores a question of this fold (CrossFit, arXiv 2609.39102); 0 stays 0.

    A judge scores the half of the source documents that it was not trained on.
    """
    return 3 - fold if fold else 0


def source_fold(written: Trajectory, folds: int) -> int:
    """Return the fold, 1 or 2, of a generated question's source document; 0 if there is one judge.

    The source is the passage that the generator retrieved last before it wrote (the one its answer was read from),
    identified by its title, so that every question from it is in the same fold. We differ from CrossFit, where
    questions are made from a given document; here the generator finds its own.
    """
    if folds == 1:
        return 0
    texts = [turn.text for turn in written.turns if turn.kind == "tool"]
    title = texts[-1].partition("\n")[0] if texts else written.task.question
    return stable_seed("fold", title) % folds + 1


@dataclass(frozen=True)
class Judge:
    """Requests verdicts. `cache` holds the shared verdicts of a step."""

    sample: SampleTask
    prompts: PromptBuilder
    share: bool  # grm.share_verdicts
    cache: VerdictCache
    counters: StepCounters

    async def verdicts(self, task_id: str, question: Question, answer: str, count: int) -> tuple[str | None, ...]:
        """Return `count` verdicts, None for a trajectory without one; those that the tool failed are left out."""
        task = self.prompts.judge(task_id, question, answer, fold=other_fold(question.fold))
        judged = (self._verdict(task, answer, question.reference, i) for i in range(count))
        return self.read(await asyncio.gather(*judged))

    async def _verdict(self, task: Task, answer: str, reference: str, number: int) -> Trajectory:
        self.counters.verdicts += 1
        if not self.share:
            return await self.sample(task, number)
        key = "verdict", task.question, rewards.normalize(answer), reference, number
        if key in self.cache:
            self.counters.verdicts_reused += 1
        else:  # an id that does not depend on whose answer came first: the same draw in any order
            shared = replace(task, id=f"v{stable_seed(*key[1:3])}")
            self.cache[key] = asyncio.ensure_future(self.sample(shared, number))
        return await self.cache[key]

    @CLOCK.timed("reward")
    def read(self, judged: Sequence[Trajectory]) -> tuple[str | None, ...]:
        """Return the verdicts, None for a trajectory without one; those that the tool failed are left out."""
        outputs = [t.output for t in judged if t.stop is not StopReason.TOOL_FAILED]
        return tuple(rewards.offered(output, self.prompts.judge_variant) for output in outputs)
