"""Verdicts on answers, each asked for once or, on request, shared by equal answers of one step.

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
- Self checks never share, neither with each other (they are the gate's independent samples) nor with attempts: given a
  question that passed the gate, its checks lean to `correct`, and an attempt that took one over would be biased.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aslfast.core import Task, Trajectory
from aslfast.rollout import stable_seed

Sampled = Callable[[Task, int], Coroutine[Any, Any, Trajectory]]


@dataclass
class Judging:
    """The verdicts of one step. `sample` plays the number-th trajectory of a task."""

    sample: Sampled
    share: bool
    asked: int = 0
    reused: int = 0
    _given: dict[tuple[str, int], Awaitable[Trajectory]] = field(default_factory=dict)

    async def verdicts(self, judge: Task, same: str, count: int) -> Sequence[Trajectory]:
        """The judge's first `count` trajectories. `same`: equal for the tasks that may share them."""
        self.asked += count
        if self.share:
            judge = replace(judge, id=f"v{stable_seed(same)}")  # the same draw, whoever comes first
            return await asyncio.gather(*(self._shared(judge, same, i) for i in range(count)))
        return await asyncio.gather(*(self.sample(judge, i) for i in range(count)))

    async def _shared(self, judge: Task, same: str, number: int) -> Trajectory:
        if (same, number) in self._given:
            self.reused += 1
        else:
            self._given[same, number] = asyncio.ensure_future(self.sample(judge, number))
        return await self._given[same, number]
