"""SCoRe (arXiv 2409.12917): the policy answers, is asked to look again, and learns to correct itself.

The second attempt does not hear whether the first was right. Stage one teaches the second attempt alone and holds the
first to the base; stage two teaches both, and pays the second for what it gains:

    stage 1   r_1 = 0    r_2 = m_2                        KL of the first attempt: first_kl times loss.kl_coef
    stage 2   r_1 = m_1  r_2 = m_2 + bonus (m_2 - m_1)    bonus = 10: section 5

with m_i = 1 where attempt i matches a reference exactly. The bonus does not reach the first attempt (gamma = 0).

We differ: both attempts are one trajectory with two spans, and a span's reward is compared with those of its name in
the other plays of the question (the paper: REINFORCE over batches of 512).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.phase import (
    OwnPhase,
    Play,
    Played,
    Question,
    RewardOf,
    SegmentRewards,
    Span,
    Task,
    TaskContext,
    Trajectory,
)
from aslfast.rewards import exact_match

FIRST, SECOND = "first attempt", "second attempt"


def attempt_rewards(first: float, second: float, stage: int, bonus: float) -> tuple[float | None, float]:
    """Return the rewards of both attempts, from their matches, 0 or 1; None: the first is not rewarded."""
    return (None, second) if stage == 1 else (first, second + bonus * (second - first))


def attempt_spans(
    first: Trajectory, both: Trajectory, rewards: tuple[float | None, float], first_kl: float
) -> list[Span]:
    """Return the spans of the trajectory that holds both attempts. first_kl: times loss.kl_coef, of the first."""
    end = len(first.token_ids)
    return [
        Span(FIRST, 0, end, rewards[0], kl_weight=first_kl),
        Span(SECOND, end, len(both.token_ids), rewards[1]),
    ]


@dataclass(frozen=True)
class AttemptOptions:
    """again: what is said between the attempts. first_kl: times loss.kl_coef, of the first."""

    again: str
    bonus: float
    first_kl: float


class _Attempts(OwnPhase):
    """Two attempts at a labelled question, one after the other."""

    roles = ("policy",)
    stage = 1

    def tasks(self, context: TaskContext) -> Sequence[Question | str]:
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Sequence[Trajectory]:
        first = await play.act("policy", question=task.question)
        if first.turns[-1].kind != "sampled":  # a search was its last turn: there is nothing to look at again
            return (first,)
        again = play.context.asked("policy", self.options_as(AttemptOptions).again, question=task.question)
        return first, await play.go_on(first, again)

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        return [(None, self._of_both(*acts)) if len(acts) == 2 else (None,) for acts in plays]

    def _of_both(self, first: Trajectory, both: Trajectory) -> SegmentRewards:
        matches = [float(exact_match(act.output, act.task.references)) for act in (first, both)]
        options = self.options_as(AttemptOptions)
        rewards = attempt_rewards(matches[0], matches[1], self.stage, options.bonus)
        return SegmentRewards(attempt_spans(first, both, rewards, options.first_kl))


class StageOne(_Attempts):
    """The second attempt is taught, the first held to the base."""


class StageTwo(_Attempts):
    """Both are taught, and the second is paid for what it gains."""

    stage = 2
