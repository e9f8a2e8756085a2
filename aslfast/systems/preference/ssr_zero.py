"""SSR-Zero (arXiv 2505.16637; its repository has no code): the policy scores its own outputs, without a reference.

    r = (s - 1) / 9,    s from 1 to 10: what the same model says of the output

We differ: answers to questions in place of translations of single-language texts; the scale of the score is not public
and ours, as is 0 for an output that is missing or a score that cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence

from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, Task, TaskContext
from aslfast.systems.selfplay.judged import score_of

LOW, HIGH = 1, 10


class SSRZero(OwnPhase):
    """The policy answers, and the role `scorer`, on the policy's adapter, scores that; the scoring is not learnt."""

    roles = ("policy",)

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Played:
        answered = await play.act("policy", question=task.question)
        if answered.output is not None:
            scored = await play.act("scorer", question=task.question, answer=answered.output)
            play.settle(answered, score_of(scored.output, LOW, HIGH) or 0.0)
        return (answered,)

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return 0 for each output: the scores are settled in the play."""
        return [[0.0 for _ in acts] for acts in plays]
