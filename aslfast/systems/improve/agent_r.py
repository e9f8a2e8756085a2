"""Agent-R (arXiv 2501.11425; bytedance/Agent-R@dd8bd1e): learning to turn back from a wrong step when it is made.

Of several attempts at a question each wrong one is cut after the first of its steps that the policy itself calls wrong,
and spliced with a right one, from where the two part:

    wrong path up to that step (no loss) + a thought that it must be revised + right path on

Both these texts and the right paths are learnt by likelihood, round after round. We differ: attempts from the question
in place of a tree search, whose thresholds are not public: right is an exact match, wrong one that is none. A wrong
step that is the answer itself is left out before the thought, since an answer ends a trajectory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aslfast.core import Turn
from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, Task, TaskContext, Trajectory
from aslfast.rewards import exact_match

THOUGHTS = (  # in our own words; the code draws from ten
    "That step led nowhere. I go back and choose another way.",
    "This does not lead to the answer. I start again from before it.",
    "I followed the wrong trail, so I leave it here.",
    "What I did last was a mistake. I do it differently now.",
    "I was on the wrong path. The next step has to be another one.",
)
NO_VERSION = -1  # of the adapter: no version of it said all of a spliced text


def sampled_starts(act: Trajectory) -> list[int]:
    """Return where each sampled turn of a trajectory starts."""
    return [turn.start for turn in act.turns if turn.kind == "sampled"]


def cut_after(wrong: Trajectory, step: int) -> int:
    """Return where the turn after the step-th sampled one starts; of the last, where it starts itself."""
    starts = sampled_starts(wrong)
    return starts[min(step + 1, len(starts) - 1)]


def parting(wrong: Trajectory, right: Trajectory, end: int) -> int:
    """Return where the right path is gone on with: its last turn's start up to which both are the same, `end` at most.

    end: where the wrong path is cut.
    """
    shared = [at for at in sampled_starts(right) if at <= end and right.token_ids[:at] == wrong.token_ids[:at]]
    return shared[-1]


def spliced(wrong: Trajectory, end: int, thought: str, thought_ids: Sequence[int], right: Trajectory) -> Trajectory:
    """Return the wrong path up to `end`, the thought, and the right path from where they part.

    The former is not learnt from. Log-probs are 0 where the policy did not say a token there: for a likelihood alone.
    """
    at, n = parting(wrong, right, end), len(thought_ids)
    shift = end + n - at
    later = [replace(turn, start=turn.start + shift, end=turn.end + shift) for turn in right.turns if turn.start >= at]
    before = [turn for turn in wrong.turns if turn.end <= end]
    tokens = (*wrong.token_ids[:end], *thought_ids, *right.token_ids[at:])
    return replace(
        right,
        token_ids=tokens,
        loss_mask=(*(0,) * end, *(1,) * n, *right.loss_mask[at:]),
        logprobs=(0.0,) * len(tokens),
        turns=(*before, Turn("sampled", end, end + n, thought), *later),
        adapter_version=NO_VERSION,
    )


@dataclass(frozen=True)
class AgentROptions:
    """attempts: at a question."""

    attempts: int = 8


class AgentR(OwnPhase):
    """A play is the attempts at a question. The role `critic`, on the policy's adapter, says which step is wrong."""

    roles = ("policy",)
    options_kind = AgentROptions

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Played:
        n = self.options_as(AgentROptions).attempts
        tries = await asyncio.gather(*(play.act("policy", question=task.question) for _ in range(n)))
        right = [act for act in tries if exact_match(act.output, task.references)]
        wrong = [act for act in tries if act not in right and sampled_starts(act)]
        if not right:
            return tuple(tries)
        pairs = [(act, right[i % len(right)]) for i, act in enumerate(wrong)]
        revised = [await self._revised(play, *pair) for pair in pairs]  # one by one: acts are numbered in their order
        return (*tries, *revised)

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return 1 for what ends in a right answer, which is what is learnt, else 0."""
        return [[float(exact_match(act.output, task.references)) for act in acts] for acts in plays]

    async def _revised(self, play: Play, wrong: Trajectory, right: Trajectory) -> Trajectory:
        thought = play.rng(f"thought {wrong.task.id}").choice(THOUGHTS)
        ids = play.context.rollout.chat.said_ids(thought)
        return spliced(wrong, cut_after(wrong, await self._first_wrong(play, wrong)), thought, ids, right)

    async def _first_wrong(self, play: Play, act: Trajectory) -> int:
        """Return the number of the first step that the critic calls wrong, from 0; the last where it calls none so."""
        said = [i for i, turn in enumerate(act.turns) if turn.kind == "sampled"]
        for number, i in enumerate(said):
            before = " ".join(turn.text for turn in act.turns[1:i])
            step = act.output if act.output is not None and i == said[-1] else act.turns[i].text
            judged = await play.act("critic", question=play.task.question, before=before, step=step)
            if judged.output == "wrong":
                return number
        return len(said) - 1
