"""Verdicts on answers: one request each or, if the recipe says so, one for equal answers of a step.

Sharing (`grm.share_verdicts`): within a step, answers to the same question that are equal when normalised get the
same i-th verdict, from one request; the judge reads the spelling that came first. Let p(a) be the chance that the judge
calls answer a correct, and v_k the verdict on the k-th attempt.

- Policy reward: E[v_k | a_k] = p(a_k) with and without sharing, so mean rewards stay unbiased. The verdicts of equal
  answers, independent before, become one draw: of m equal answers the mean has variance p(1-p) instead of p(1-p)/m.
  Within a group equal answers are then equally paid (the judge's noise no longer tells them apart), but what the judge
  errs on once it errs on for all of them: noise between different answers no longer averages out.
- Generator reward: the entropy H of the share of `correct` among K attempts. The share has the same mean, and shared
  it is a mean-preserving spread of the unshared one, so, H being concave, E[H] can only fall. What is lost is the
  judge's own indecision: K equal answers and p = 1/2 give nearly ln 2 unshared and exactly 0 shared. Shared entropy
  pays for attempts that disagree, unshared entropy also for a judge that cannot decide. It is another reward.
- Labels by majority: m equal answers carry one vote, not m.
- Self checks never share, neither with each other (they are the acceptance filter's independent samples) nor with attempts: given a
  question that passed the acceptance filter, its checks lean to `correct`, and an attempt that took one over would be biased.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aslfast import rewards
from aslfast.core import StopReason, Task, Trajectory
from aslfast.prompts import role_tasks
from aslfast.rollout.counters import StepCounters
from aslfast.rollout.multi_turn import stable_seed

Sampled = Callable[[Task, int], Coroutine[Any, Any, Trajectory]]
# (question, normalised answer, reference, number of the verdict) -> the judge's trajectory, under way or done
VerdictCache = dict[tuple[str, str, str, int], Awaitable[Trajectory]]


def other_fold(fold: int) -> int:
    """Who was trained on one half of the source documents judges the other half (CrossFit, arXiv 2609.39102)."""
    return 3 - fold if fold else 0


def source_fold(written: Trajectory, folds: int) -> int:
    """The half, 1 or 2, that a question's source document falls into; 0 where judges are not folded.

    The document is the passage that the generator found last before it wrote (the one its answer was read from),
    known by its title, so that every question from it falls into the same half. We differ from CrossFit, where
    questions are made from a given document; here the generator finds its own.
    """
    if folds == 1:
        return 0
    texts = [turn.text for turn in written.turns if turn.kind == "tool"]
    title = texts[-1].partition("\n")[0] if texts else written.task.question
    return stable_seed("fold", title) % folds + 1


@dataclass(frozen=True)
class Judge:
    """Asks the judge. `sample` plays the number-th trajectory of a task; `cache` holds the shared verdicts of a step."""

    sample: Sampled
    prompts: str
    variant: str  # of the judge's prompt: rewards/judge.py
    share: bool  # grm.share_verdicts
    cache: VerdictCache
    counters: StepCounters

    def task(
        self, task_id: str, question: str, answer: str, reference: str, label: str | None = None, hops: int = 0,
        fold: int = 0,
    ) -> Task:  # fmt: skip
        """Return the task of judging an answer. fold: the judge's; `other_fold` of a question's source may judge it."""
        return role_tasks.grm_task(task_id, question, answer, self.prompts, label, hops, self.variant, reference, fold)

    async def verdicts(
        self, task_id: str, question: str, answer: str, reference: str, count: int, source_fold: int = 0
    ) -> tuple[str | None, ...]:
        """Return `count` verdicts: None where the judge gave none; those that the tool failed are left out."""
        task = self.task(task_id, question, answer, reference, fold=other_fold(source_fold))
        judged = (self._verdict(task, answer, reference, i) for i in range(count))
        return self.read(await asyncio.gather(*judged))

    async def _verdict(self, task: Task, answer: str, reference: str, number: int) -> Trajectory:
        self.counters.verdicts += 1
        if not self.share:
            return await self.sample(task, number)
        key = task.question, rewards.normalize(answer), reference, number
        if key in self.cache:
            self.counters.verdicts_reused += 1
        else:  # a name that does not tell whose answer came first: the same draw whatever the order
            same = replace(task, id=f"v{stable_seed(*key[:2])}")
            self.cache[key] = asyncio.ensure_future(self.sample(same, number))
        return await self.cache[key]

    def read(self, judged: Sequence[Trajectory]) -> tuple[str | None, ...]:
        """Return the verdicts of the trajectories that the tool did not fail; None where one came to no verdict."""
        heard = [t.output for t in judged if t.stop is not StopReason.TOOL_FAILED]
        return tuple(rewards.offered(verdict, self.variant) for verdict in heard)
