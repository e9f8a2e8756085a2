"""SPIRAL: a zero-sum game of many turns between two roles of one policy, both of which learn from it.

Source: arXiv 2506.24119v3 and spiral-rl/spiral@a02d0ed, whose games are Tic-Tac-Toe, poker and negotiation; its
role-conditioned baseline is `advantage.baseline = "moving"`. The game here is ours, over passages: see `Spiral`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, Task, TaskContext, Trajectory
from aslfast.rewards import contains_match, exact_match

Outcome = Literal[
    "generator", "policy", "draw", "generator illegal", "policy illegal"
]  # who won, or who broke the rules

# arXiv 2506.24119: +1, -1 and 0 at the end; its code: a move that cannot be read ends the game with -1.5 for who made
# it and +0.5 for the other. We differ in nothing.
PAID: dict[Outcome, tuple[float, float]] = {  # the generator's, the policy's
    "generator": (1.0, -1.0),
    "policy": (-1.0, 1.0),
    "draw": (0.0, 0.0),
    "generator illegal": (-1.5, 0.5),
    "policy illegal": (0.5, -1.5),
}


def outcome_of(acts: Sequence[Trajectory], to_win: int) -> Outcome | None:
    """Return how the game stands after its moves, the generator's and the policy's in turn; None: it may go on.

    A question without an answer, and an answer that cannot be read, are illegal. A question whose answer is in none of
    the passages that its author has read is void. Else the passages decide: who misses the answer has lost, who gives
    it `to_win` times has won.
    """
    right = 0
    for i, act in enumerate(acts):
        if act.output is None:
            return "policy illegal" if i % 2 else "generator illegal"
        asked = acts[i - 1]
        if i % 2 and _grounded(asked):
            if not exact_match(act.output, [asked.output_answer or ""]):
                return "generator"
            right += 1
    return "policy" if right == to_win else None


def _grounded(asked: Trajectory) -> bool:
    """Return whether a passage that the generator has read contains its answer."""
    read = [turn.text for turn in asked.turns if turn.kind == "tool"]
    return any(contains_match(text, [asked.output_answer or ""]) for text in read)


@dataclass(frozen=True)
class SpiralOptions:
    """turns: the most of a game, of both sides; to_win: right answers that win it for the policy."""

    turns: int = 6
    to_win: int = 2


class Spiral(OwnPhase):
    """The generator asks about a topic, the policy answers; the next question starts from that answer. Both search."""

    roles = ("generator", "policy")

    def tasks(self, context: TaskContext) -> list[Question]:
        return [Question(str(i), topic) for i, topic in enumerate(context.data.topics)]

    async def play(self, play: Play, task: Task) -> Played:
        options, topic = self.options_as(SpiralOptions), task.question
        acts: list[Trajectory] = []
        while len(acts) < options.turns and outcome_of(acts, options.to_win) is None:
            if len(acts) % 2 == 0:
                acts.append(await play.act("generator", topic=topic))
            else:
                acts.append(await play.act("policy", question=acts[-1].output or ""))
                topic = acts[-1].output or topic
        return tuple(acts)

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return for each act what its side has at the end of the game."""
        to_win = self.options_as(SpiralOptions).to_win
        ends = [PAID[outcome_of(acts, to_win) or "draw"] for acts in plays]
        return [[paid[i % 2] for i, _ in enumerate(acts)] for acts, paid in zip(plays, ends, strict=True)]
