"""ReSeek (arXiv 2510.00568; its repository has no code): after each search the policy judges what it found, and
searches again where it rejects it. Each judgement is rewarded by a scorer that sees the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.core import Question, Span, Task, Trajectory, Turn
from aslfast.phase import OwnPhase, Play, Played, RewardOf, SegmentRewards, TaskContext
from aslfast.prompts.parsing import without_thinking
from aslfast.rewards import contains_match, exact_match

RIGHT, ACCEPTED_USELESS, REJECTED_USEFUL = 0.3, -0.6, -0.3
_JUDGE = re.compile(r"<judge>\s*(yes|no)\s*</judge>", re.IGNORECASE)


def judgement_reward(accepts: bool | None, useful: bool) -> float:
    """Return 0.3 for a right judgement, -0.6 for accepting what is useless, -0.3 for rejecting what is useful.

    Ours: one that is left out (None) earns -0.6, so that it never pays to leave it out.
    """
    if accepts is None:
        return ACCEPTED_USELESS
    return RIGHT if accepts == useful else ACCEPTED_USELESS if accepts else REJECTED_USEFUL


@dataclass(frozen=True)
class Judgement:
    """What a turn says of the observation before it, and whether that was of use."""

    turn: Turn
    accepts: bool | None
    useful: bool


def judgements(act: Trajectory) -> list[Judgement]:
    """Return the judgement of each observation that a turn follows.

    Useful: the observation holds a reference answer. We differ: the paper has bge-reranker-large score the observation
    against the answer, above 0.7.
    """
    pairs = [(a, b) for a, b in zip(act.turns, act.turns[1:], strict=False) if a.kind == "tool" and b.kind == "sampled"]
    return [Judgement(b, _accepts(b), contains_match(a.text, act.task.references)) for a, b in pairs]


def _accepts(turn: Turn) -> bool | None:
    said = _JUDGE.findall(without_thinking(turn.said))
    return said[0].lower() == "yes" if len(said) == 1 else None


def rewarded(act: Trajectory, gamma: float) -> SegmentRewards:
    """Return gamma^(t-1) r_t for the t-th judgement, at its turn, and gamma^T EM for the answer after T of them.

    An answer whose own turn rejects what was found earns nothing: the policy has to search again. We differ: the paper
    adds all up to one return, sum over t of gamma^(t-1) r_t; here each judgement has its own advantage.
    """
    judged = judgements(act)
    spans = [
        Span("judge", one.turn.start, one.turn.end, gamma**i * judgement_reward(one.accepts, one.useful))
        for i, one in enumerate(judged)
    ]
    rejected = bool(judged) and judged[-1].accepts is False
    right = exact_match(act.output, act.task.references) and not rejected
    return SegmentRewards(spans, {"answer": gamma ** len(judged) * right})


@dataclass(frozen=True)
class ReSeekOptions:
    """gamma: of a later judgement. attempts: of `ReSeekByActs`, at most."""

    gamma: float
    attempts: int = 1


class ReSeek(OwnPhase):
    """The policy writes <judge>Yes</judge> or <judge>No</judge> in its turn after each search."""

    roles: Sequence[str] = ("policy",)

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        """Return the labelled questions."""
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Played:
        """Return the policy's answer."""
        return (await play.act("policy", question=task.question),)

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return the rewards of judgements and answers."""
        return [[rewarded(act, self.options_as(ReSeekOptions).gamma)] for (act,) in plays]


class ReSeekByActs(ReSeek):
    """The same for a model that cannot judge in its turn: the role `grm`, on the policy's adapter, judges each answer,
    and the policy tries again where it is rejected.
    """

    roles = ("policy", "grm")

    async def play(self, play: Play, task: Task) -> Played:
        """Return attempts and judgements in turn, until one is accepted."""
        acts: list[Trajectory] = []
        for _ in range(self.options_as(ReSeekOptions).attempts):
            acts.append(await play.act("policy", question=task.question))
            acts.append(await play.act("grm", question=task.question, answer=acts[-1].output or "nothing"))
            if acts[-1].output == "correct":
                break
        return tuple(acts)

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return for every act what the last attempt earns, and for each judgement its own reward at its last turn."""
        return [self._of_play(task, acts) for acts in plays]

    def _of_play(self, task: Task, acts: Played) -> list[RewardOf]:
        gamma, found = self.options_as(ReSeekOptions).gamma, list[RewardOf]()
        accepted = acts[-1].output == "correct"
        end = {"answer": gamma ** (len(acts) // 2) * (exact_match(acts[-2].output, task.references) and accepted)}
        for i, (attempt, verdict) in enumerate(zip(acts[::2], acts[1::2], strict=True)):
            accepts = {"correct": True, "wrong": False}.get(verdict.output or "")
            value = gamma**i * judgement_reward(accepts, exact_match(attempt.output, task.references))
            last = verdict.turns[-1]
            found += [end, SegmentRewards([Span("judge", last.start, last.end, value)], end)]
        return found
