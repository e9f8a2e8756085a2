"""ConvSearch-R1 (arXiv 2505.15776; BeastyZ/ConvSearch-R1@e7854c8): a rewriter turns a dialogue into a query, and earns
the rank at which that finds a gold passage. First it is fine-tuned on its own rewrites that find it first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.core import Question, Task, Trajectory
from aslfast.metrics.health import queries_of
from aslfast.phase import Control, OwnPhase, Play, Played, RewardOf, TaskContext
from aslfast.rewards import contains_match

DEPTH = 100  # passages that are looked through
MALFORMED = -0.1  # in place of all else


def rank_reward(rank: int | None) -> float:
    """Return (19 - r) / 9 for r from 1 to 10, (100 - r) / 90 for 11 to 100, and 0 for a miss (2505.15776)."""
    if rank is None or rank > DEPTH:
        return 0.0
    return (19 - rank) / 9 if rank <= 10 else (100 - rank) / 90


def rank_of_gold(passages: Sequence[str], references: Sequence[str]) -> int | None:
    """Return the rank of the first passage that holds a reference answer, 1 for the best; None for a miss.

    We differ: the paper's data names the gold passage of each turn of a dialogue.
    """
    return next((rank for rank, text in enumerate(passages, 1) if contains_match(text, references)), None)


@dataclass(frozen=True)
class ConvSearchOptions:
    """by_call: the rewrite is the query of its first call, not its output."""

    by_call: bool


class ConvSearchR1(OwnPhase):
    """The rewriter learns by rank. In the first round, the recipe's loss is that of successes alone (`sft`)."""

    roles = ("rewriter",)

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        """Return the labelled questions, each with the dialogue before it, if it has one."""
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Played:
        """Return a rewrite, with what its rank earns."""
        act = await play.act("rewriter", question=task.question)
        play.settle(act, await self._reward(play, self.rewrite(act)))
        return (act,)

    async def _reward(self, play: Play, query: str | None) -> RewardOf:
        if query is None:
            return {"format": MALFORMED}
        found = await play.passages(query, DEPTH)
        return {"rank": rank_reward(rank_of_gold(found, play.task.references))}

    def rewrite(self, act: Trajectory) -> str | None:
        """Return the query that an act has written; None where it is malformed."""
        return next(iter(queries_of(act)), None) if self.options_as(ConvSearchOptions).by_call else act.output

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return nothing beside what is settled: a rank is known where it was searched."""
        return [[None] for _ in plays]

    async def after_phase(self, control: Control) -> None:
        """Go over from fine-tuning on own successes to reinforcement learning after the first round."""
        if control.state.round == 1:
            control.set("loss.kind", "ppo")
