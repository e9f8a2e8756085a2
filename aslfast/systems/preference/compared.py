"""Answers to one question, compared with each other in pairs: what SPO and SPPO reward."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, Task, TaskContext, Trajectory
from aslfast.rewards import normalize


def choice(said: str | None) -> float:
    """Return 1 where the first of two was chosen, 0 where the second was, 1/2 for what is neither.

    "correct" and "wrong", said of the first, are the first and the second: what a judge of one answer says.
    """
    return {"1": 1.0, "first": 1.0, "correct": 1.0, "2": 0.0, "second": 0.0, "wrong": 0.0}.get(said or "", 0.5)


def win_rates(preferred: Mapping[tuple[int, int], float], n: int) -> list[float]:
    """Return each answer's mean over the n - 1 others of how surely it is preferred, P(i, j) = 1 - P(j, i).

    preferred: P(i, j) of all i < j.
    """
    wins = [0.0] * n
    for (i, j), share in preferred.items():
        wins[i] += share
        wins[j] += 1 - share
    return [won / (n - 1) for won in wins]


@dataclass(frozen=True)
class ComparedOptions:
    """answers: to a question, 2 at least."""

    answers: int = 5


class Compared(OwnPhase):
    """The policy answers a question several times; the role `grm` compares each two answers, in both orders.

    An answer that is missing loses against one that is not; two that say the same, or are both missing, draw, unasked.
    """

    roles = ("policy",)
    options_kind: type[ComparedOptions] = ComparedOptions

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Played:
        n = self.options_as(self.options_kind).answers
        answers = await asyncio.gather(*(play.act("policy", question=task.question) for _ in range(n)))
        pairs = list(itertools.combinations(range(n), 2))
        shares = await asyncio.gather(*(self._preferred(play, answers[i], answers[j]) for i, j in pairs))
        for act, rate in zip(answers, win_rates(dict(zip(pairs, shares, strict=True)), n), strict=True):
            play.settle(act, self.reward(rate))
        return tuple(answers)

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return nothing: the win rates are settled in the play."""
        return [[None for _ in acts] for acts in plays]

    def reward(self, rate: float) -> float:
        """Return what an answer of that win rate earns."""
        return rate

    async def _preferred(self, play: Play, one: Trajectory, other: Trajectory) -> float:
        """Return how surely one answer is preferred to another: the mean over both orders of showing them."""
        said = [normalize(act.output or "") for act in (one, other)]
        if said[0] == said[1]:
            return 0.5
        if one.output is None or other.output is None:
            return float(other.output is None)
        first, second = await asyncio.gather(self._judged(play, one, other), self._judged(play, other, one))
        return (choice(first.output) + 1 - choice(second.output)) / 2

    async def _judged(self, play: Play, first: Trajectory, second: Trajectory) -> Trajectory:
        one, two = first.output or "", second.output or ""
        return await play.act("grm", question=play.task.question, first=one, second=two)
