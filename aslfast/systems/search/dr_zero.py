"""Dr. Zero (arXiv 2601.07055; facebookresearch/drzero@0591d53): a proposer, rewarded by how hard its questions are for
the solver of the round before, with advantages among questions of as many hops (HRPO); then a solver on its questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aslfast.core import Question, Task, Trajectory
from aslfast.phase import OwnPhase, Play, Played, RewardOf, TaskContext
from aslfast.rewards import contains_match, exact_match, normalize, share_failed, substring_match

HOPS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4)  # 4:3:2:1
MOST_WORDS = 50  # of a question that the solver is asked


def form(act: Trajectory, hops: int, passage: str) -> float:
    """Return f = (1 + think + tool + ans) / 4, 0 without a question and an answer that is not in it (its code).

    think: share of turns that begin with a thought; tool: min((1 + calls) / hops, 1), 1 for one hop; ans: `supported`.
    We differ: a call without a reply ends a trajectory here, and leaves no question.
    """
    asked, answer = act.output or "", act.output_answer or ""
    if not asked or not answer or substring_match(asked, [answer]):
        return 0.0
    said = [turn.said.lstrip() for turn in act.turns if turn.kind == "sampled"]
    think = sum(text.startswith("<think>") for text in said) / len(said)
    tool = 1.0 if hops == 1 else min((1 + act.tool_calls) / hops, 1.0)
    read = " ".join([passage, *(turn.text for turn in act.turns if turn.kind == "tool")])
    return (1.0 + think + tool + supported(answer, read)) / 4


def supported(answer: str, read: str) -> float:
    """Return whether an answer stands in what was read, or is yes or no: 1, 0.5 for over 5 words, 0 for over 10."""
    if not (contains_match(read, [answer]) or normalize(answer) in ("yes", "no")):
        return 0.0
    words = len(answer.split())
    return 1.0 if words <= 5 else 0.5 if words <= 10 else 0.0


@dataclass(frozen=True)
class DrZeroOptions:
    """tries: n, at a question. passage_chars: of a passage that is shown. proposals: to each passage, of the solver."""

    tries: int
    most_hops: int
    passage_chars: int
    proposals: int = 5


class _FromPassages(OwnPhase):
    """Passages to ask about, each with a number of hops."""

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        """Return the topics whose passages are asked about, in an order of the round, with hops 4:3:2:1."""
        rng, topics = context.rng(f"passages of {type(self).__name__}"), list(context.data.topics)
        rng.shuffle(topics)
        hops = [each for each in HOPS if each <= self.options_as(DrZeroOptions).most_hops]
        return [Question(f"{i}", topic, (), rng.choice(hops)) for i, topic in enumerate(topics)]

    async def passage(self, play: Play) -> str:
        """Return what is found about the topic, cut."""
        return (await play.search(play.task.question))[: self.options_as(DrZeroOptions).passage_chars]

    async def ask(self, play: Play, passage: str) -> Trajectory:
        """Let the proposer write a question about a passage."""
        hops = play.task.hops
        return await play.act(
            "generator", topic=play.task.question, passage=passage, hops=str(hops), searches=str(hops - 1)
        )


class DrZeroProposer(_FromPassages):
    """The proposer learns: one question a passage, and n tries at it by the solver as the round began.

    The tries are recorded, and nobody learns from them.
    """

    roles = ("generator", "tester")

    async def play(self, play: Play, task: Task) -> Played:
        """Return a question, and the tries at it where it is well formed."""
        passage = await self.passage(play)
        asked = await self.ask(play, passage)
        f = form(asked, task.hops, passage)
        tries = await self._tries(play, asked) if f else ()
        right = [exact_match(act.output, act.task.references) for act in tries]
        play.settle(asked, {"format": 0.5 * f, "difficulty": share_failed(right)})
        return asked, *tries

    async def _tries(self, play: Play, asked: Trajectory) -> Sequence[Trajectory]:
        question = _question(asked)
        n = self.options_as(DrZeroOptions).tries
        return await asyncio.gather(*(play.act("tester", about=question) for _ in range(n)))

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return 1 for each right try; what the question earns is settled, since it takes its passage to know."""
        return [(None, *(float(exact_match(act.output, act.task.references)) for act in acts[1:])) for acts in plays]


class DrZeroSolver(_FromPassages):
    """The solver learns from the best in form of a few questions to each passage, however bad that is.

    The proposals are the trained proposer's. We differ: they are made when they are needed, not all before; a passage
    to which none has a question and an answer is left out.
    """

    roles = ("policy",)

    async def play(self, play: Play, task: Task) -> Played:
        """Return the tries at the best question, or the proposals, not learnt from, where there is none."""
        passage, options = await self.passage(play), self.options_as(DrZeroOptions)
        made = await asyncio.gather(*(self.ask(play, passage) for _ in range(options.proposals)))
        best = max(made, key=lambda act: (act.output is not None, form(act, task.hops, passage)))
        if best.output is None:
            return tuple(made)
        cut = replace(_question(best), text=" ".join(best.output.split()[:MOST_WORDS]))
        return tuple(await asyncio.gather(*(play.act("policy", about=cut) for _ in range(options.tries))))

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return 1 for each right answer."""
        return [[self._of(act) for act in acts] for acts in plays]

    def _of(self, act: Trajectory) -> RewardOf:
        return float(exact_match(act.output, act.task.references)) if act.task.role == "policy" else None


def _question(asked: Trajectory) -> Question:
    """Return a proposal as a question to answer."""
    return Question(asked.task.id, asked.output or "", (asked.output_answer or "",), asked.task.hops)
