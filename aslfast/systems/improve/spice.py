"""SPICE (arXiv 2510.24684): a challenger reads a document that the reasoner does not see, and asks about it.

With p the share of K answers that are right, and variance p (1 - p), which is 1/4 at best:

    challenger   exp(-(p (1 - p) - 1/4)^2 / (2 x 0.01)); -0.1 for a question that is not valid
    reasoner     1 if the answer matches the challenger's, else 0

The reasoner learns from the answers to one valid question a document.

We differ: the reasoner may search, where the paper's has nothing to read; a document is what the search finds by a
topic; `tries` questions a document are all kept, so that their ratio of valid to invalid ones is the true one (the
paper tries up to 1024 times for a valid one, then subsamples 8 at that ratio); answers are compared by exact match, and
a question is valid if it is well formed and its answer stands in the document.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, Task, TaskContext, Trajectory
from aslfast.rewards import contains_match, exact_match, valid_question

WIDTH, BEST, INVALID = 0.01, 0.25, -0.1


def challenger_reward(p: float) -> float:
    """Return the reward of a valid question of which a share p of the answers is right."""
    return math.exp(-((p * (1 - p) - BEST) ** 2) / (2 * WIDTH))


def is_valid(asked: Trajectory) -> bool:
    """Return whether a question is well formed, and its answer stands in what the challenger has read."""
    read = " ".join(turn.text for turn in asked.turns if turn.kind != "sampled")
    answer = asked.output_answer or ""
    return valid_question(asked.output or "") and bool(answer) and contains_match(read, [answer])


@dataclass(frozen=True)
class SpiceOptions:
    """tries: questions a document. answers: K, to each valid one."""

    tries: int
    answers: int


class Spice(OwnPhase):
    """A play is a document: questions about it, and the answers to each valid one."""

    roles = ("challenger", "policy")

    def tasks(self, context: TaskContext) -> Sequence[Question | str]:
        return list(context.data.topics)

    async def play(self, play: Play, task: Task) -> Sequence[Trajectory]:
        document, tries = await play.search(task.question), range(self.options_as(SpiceOptions).tries)
        asking = (play.act("challenger", topic=task.question, document=document) for _ in tries)
        asked = await asyncio.gather(*asking)
        answered = await asyncio.gather(*(self._answers(play, act) for act in asked if is_valid(act)))
        return *asked, *(act for acts in answered for act in acts)

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        return [self._of_document(acts) for acts in plays]

    async def _answers(self, play: Play, asked: Trajectory) -> list[Trajectory]:
        question = Question(asked.task.id, asked.output or "", (asked.output_answer or "",))
        acts = (play.act("policy", about=question) for _ in range(self.options_as(SpiceOptions).answers))
        return list(await asyncio.gather(*acts))

    def _of_document(self, acts: Played) -> list[RewardOf]:
        """Return the rewards of the questions, then of the answers: those to the first valid question alone."""
        options = self.options_as(SpiceOptions)
        n, asked, answers = options.answers, acts[: options.tries], list(acts[options.tries :])
        earned: list[RewardOf] = []
        given: list[RewardOf] = []
        for act in asked:
            if not is_valid(act):
                earned.append(INVALID)
                continue
            own, answers = answers[:n], answers[n:]
            right = [float(exact_match(answer.output, [act.output_answer or ""])) for answer in own]
            earned.append(challenger_reward(sum(right) / n))
            given += right if not given else [None] * n
        return [*earned, *given]
