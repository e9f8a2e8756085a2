"""MAE, Multi-Agent Evolve: proposer, solver and judge on one adapter, each a role of one model, all three trained.

Source: arXiv 2510.23595v3 and ulab-uiuc/Multi-agent-evolve@d71c00b.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from aslfast.core import StopReason
from aslfast.phase import Group, OwnPhase, Play, Played, Question, RewardOf, RunConfig, Task, TaskContext, Trajectory
from aslfast.pool import Pool
from aslfast.systems.selfplay.judged import drawn, score_of

GOOD = 0.7  # quality from which a question is pooled, and its difficulty counts
UNREAD = 0.5  # of a score that cannot be read


def form(act: Trajectory) -> float:
    """Return 1 for an output in its tags, 1/2 for tags too many, else 0.

    Source: the paper's format reward. We differ: its code asks three score tags of the judge; the paper, and we, one.
    """
    return {StopReason.FINISHED: 1.0, StopReason.TWO_OUTPUTS: 0.5}.get(act.stop, 0.0)


def quality_of(act: Trajectory) -> float:
    """Return (s - 1) / 9 for the score s of 1 to 10 that a judge gave, 1/2 where it cannot be read."""
    score = score_of(act.output, 1, 10)
    return UNREAD if score is None else score


def proposer_reward(quality: float, solved: float, form: float) -> dict[str, float]:
    """Return (quality + (1 - solved) + form) / 3 by parts; solved: mean score of the solver's tries.

    Below a quality of 0.7 the second part is dropped, as in the code. We differ: the sum is still divided by 3.
    """
    difficulty = 1 - solved if quality >= GOOD else 0.0
    return {"quality": quality / 3, "difficulty": difficulty / 3, "format": form / 3}


def solver_reward(score: float, form: float) -> dict[str, float]:
    """Return score / 2 + form / 2 by parts."""
    return {"judge": score / 2, "format": form / 2}


@dataclass
class Pools:
    """Questions that were good enough, and pairs: a question with an answer of the solver's as its reference."""

    questions: Pool = field(default_factory=Pool)
    pairs: Pool = field(default_factory=Pool)


@dataclass(frozen=True)
class MAEOptions:
    """question_prompt: what the judge is asked about a question's quality, with {question} and {answer}."""

    question_prompt: str
    tries: int = 5  # of the solver at a new question
    reference_share: float = 0.5  # of the proposals, those that are shown a pooled question


class MAE(OwnPhase):
    """A play: the proposer asks, the solver answers a question of the pool, the judge scores a pair of the other."""

    roles = ("generator", "policy", "grm")
    options_kind = MAEOptions

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.state = Pools()

    def tasks(self, context: TaskContext) -> list[Question]:
        return [Question(str(i), topic) for i, topic in enumerate(context.data.topics)]

    async def play(self, play: Play, task: Task) -> Played:
        written = await self._propose(play, task.question)
        own = Question("own", written.output or "", (written.output_answer or "",)) if written.output else None
        if own is not None:
            await self._weigh(play, written, own)
        asked = drawn(self.state.questions, play, "question") or own
        if asked is None:
            return (written,)
        solved = await play.act("policy", about=asked)
        judged = await self._judged(play, asked, solved)
        play.settle(solved, solver_reward(quality_of(judged) if solved.output else 0.0, form(solved)))
        pair = drawn(self.state.pairs, play, "pair")
        if pair is not None:
            judged = await play.act("grm", about=pair, answer=pair.reference)
        return written, solved, judged

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return the judge's: its form alone. The others' are settled in the play; a proposal without a question: 0."""
        return [[form(act) if act.task.role == "grm" else 0.0 for act in acts] for acts in plays]

    def after_step(self, groups: Sequence[Group]) -> None:
        """Let the pools grow."""
        for group in groups:
            for act, reward in zip(group.trajectories, group.rewards, strict=True):
                if group.role == "generator" and act.output and 3 * reward.parts["quality"] >= GOOD - 1e-9:
                    self.state.questions.add(Question(act.task.id, act.output, (act.output_answer or "",)))
                if group.role == "policy" and act.output:
                    asked = act.task.question
                    self.state.pairs.add(Question(act.task.id, asked, (act.output,)), key=f"{asked} {act.output}")

    async def _propose(self, play: Play, topic: str) -> Trajectory:
        shown = play.rng("reference").random() < self.options_as(MAEOptions).reference_share
        example = drawn(self.state.questions, play, "example") if shown else None
        start = example.reference if example else topic
        return await play.act("generator", topic=topic, example=example.text if example else "(none)", start=start)

    async def _weigh(self, play: Play, written: Trajectory, own: Question) -> None:
        """Settle the proposer's reward: the question's quality, and how the solver fares at it."""
        options = self.options_as(MAEOptions)
        quality = quality_of(await play.act("grm", options.question_prompt, about=own, answer=own.reference))
        tried = await asyncio.gather(*(play.act("policy", about=own) for _ in range(options.tries)))
        scores = await asyncio.gather(*(self._judged(play, own, act) for act in tried if act.output))
        found = [quality_of(score) for score in scores] + [0.0] * (len(tried) - len(scores))
        play.settle(written, proposer_reward(quality, fmean(found), form(written)))

    async def _judged(self, play: Play, asked: Question, answered: Trajectory) -> Trajectory:
        return await play.act("grm", about=asked, answer=answered.output or "(no answer)")
