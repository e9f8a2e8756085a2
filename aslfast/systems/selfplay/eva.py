"""eva: prompts are drawn by what the rewards of their answers differ by, evolved by a creator, and learnt from.

Source: arXiv 2411.00062; no code found. The solver learns by RLOO, one of the paper's three ways, by settings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from aslfast.filters import Check, filtered
from aslfast.phase import Group, OwnPhase, Play, Played, Question, RewardOf, RunConfig, Task, TaskContext, Trajectory
from aslfast.pool import Pool
from aslfast.rewards import normalize
from aslfast.systems.selfplay.judged import score_of

METHODS = (  # the paper's, in depth and in breadth
    "add a condition", "go deeper into it", "make it more concrete", "ask for one step of reasoning more", "expand it",
    "ask as another person would", "shift it to a neighbouring subject", "shift it to a distant subject",
    "mix it with another subject", "make it more abstract",
)  # fmt: skip
LEAST = 0.01  # priority: what taught nothing once is seldom drawn, and not lost
ACCEPTED = 0.7  # least score of an evolved question


def value_of(scores: Sequence[float]) -> float:
    """Return max - min of the scores of a prompt's answers.

    Source: the paper has the gap between the best answer and a baseline's, which one is not said; ours is the worst.
    """
    return max(scores) - min(scores)


@dataclass(frozen=True)
class EvaOptions:
    """check_prompt: what the judge is asked about an evolved question, with {question} and {answer}."""

    check_prompt: str
    answers: int = 8  # to a question
    evolved: float = 0.5  # share of the drawn questions that are


class Eva(OwnPhase):
    """A task is a question of the pool, a play the answers to it or to what the creator makes of it."""

    roles = ("policy",)
    options_kind = EvaOptions

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.state = Pool()

    def tasks(self, context: TaskContext) -> list[Question]:
        if not self.state.items:
            for question in context.data.real_questions:
                self.state.add(question)
        rng = context.rng(f"Eva{context.state.phase_step}")
        return self.state.draw(self.config.own_phase["Eva"].tasks_per_step, rng)

    async def play(self, play: Play, task: Task) -> Played:
        asked = Question(task.id, task.question, task.references, task.hops)
        options = self.options_as(EvaOptions)
        if play.rng("evolve").random() < options.evolved:
            asked = await self._evolved(play, asked)
        answers = await asyncio.gather(*(play.act("policy", about=asked) for _ in range(options.answers)))
        for act, score in zip(answers, await self._scores(play, asked, answers), strict=True):
            play.settle(act, score)
        return tuple(answers)

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return nothing: the judge's scores are settled in the play."""
        return [[None for _ in acts] for acts in plays]

    def after_step(self, groups: Sequence[Group]) -> None:
        """Keep each question, a new one too, with what its answers differed by."""
        for group in groups:
            for act in group.trajectories[:1]:
                asked = Question(act.task.id, act.task.question, act.task.references, act.task.hops)
                self.state.add(asked, max(LEAST, value_of([reward.total for reward in group.rewards])))

    async def _evolved(self, play: Play, asked: Question) -> Question:
        """Return what the creator makes of a question; the question itself where that passes no check."""
        told = {"answer": asked.reference, "method": play.rng("method").choice(METHODS)}
        accepted = partial(self._accepted, self.options_as(EvaOptions).check_prompt)
        checks = [Check("new", partial(_is_new, asked.text), "refill"), Check("accepted", accepted, "refill")]
        found = await filtered(play, partial(play.act, "generator", about=asked, **told), checks, asked)
        answer = (found.output_answer,) if found.output_answer else ()
        return asked if found.failed else Question(asked.id, found.output or "", answer)

    async def _accepted(self, prompt: str, play: Play, written: Trajectory) -> bool:
        about = Question("check", written.output or "", (written.output_answer or "",))
        judged = await play.act("grm", prompt, about=about, answer=about.reference)
        return (score_of(judged.output, 1, 10) or 0.0) >= ACCEPTED

    async def _scores(self, play: Play, asked: Question, answers: Sequence[Trajectory]) -> list[float]:
        """Return the judge's score of each answer, from 0 to 1; 0 for none, and where it cannot be read."""
        given = await asyncio.gather(*(play.act("grm", about=asked, answer=a.output) for a in answers if a.output))
        scores = iter([score_of(act.output, 1, 10) or 0.0 for act in given])
        return [next(scores) if act.output else 0.0 for act in answers]


def _is_new(old: str, _: Play, written: Trajectory) -> bool:
    return bool(written.output) and normalize(written.output or "") != normalize(old)
