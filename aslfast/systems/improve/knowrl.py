"""KnowRL (arXiv 2510.11407): a model learns to know what it can do, from the agreement of its own verdicts.

It writes a question that it deems feasible or infeasible for what it can search, then says k times whether it is. With
v the verdicts that can be read, m the most frequent of them (none of a tie) and k how many were asked:

    a verdict      1 if it is m, else 0
    the question   (number of verdicts m) / k if m is the kind that was asked for, else 0

Questions of at least `accept` join the pool, from which a few are shown to the writer.

We differ: the paper's formula, penalties and algorithm are not public (its code lies behind a link that was not
fetched), so both formulas are ours; a question that is the same as one in the pool earns nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aslfast.phase import Group, OwnPhase, Play, Played, Question, RewardOf, RunConfig, Task, TaskContext, Trajectory
from aslfast.pool import Pool
from aslfast.rewards import normalize

KINDS = ("feasible", "infeasible")
SAID = {"correct": "feasible", "wrong": "infeasible"}  # a verdict of the lab's judge


def agreed(verdicts: Sequence[str | None]) -> str | None:
    """Return the most frequent verdict; None of a tie, or where none can be read."""
    counts = Counter(verdict for verdict in verdicts if verdict in KINDS).most_common(2)
    if not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def question_reward(verdicts: Sequence[str | None], kind: str) -> float:
    """Return the share of verdicts that are the agreed one, 0 where that is not the kind that was asked for."""
    return verdicts.count(kind) / len(verdicts) if agreed(verdicts) == kind else 0.0


def as_kind(said: str | None) -> str | None:
    """Return what a verdict says of a question, None where it cannot be read."""
    text = normalize(said or "")
    return text if text in KINDS else SAID.get(text)


@dataclass(frozen=True)
class KnowRLOptions:
    """verdicts: k. shown: questions of the pool before the writer. accept: the least reward to join the pool.
    infeasible: whether every second question shall be."""

    verdicts: int
    shown: int
    accept: float
    infeasible: bool


class KnowRL(OwnPhase):
    """The writer writes a question about a topic, and the knower says k times whether it is feasible."""

    roles = ("writer", "knower")

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.state = Pool()

    def tasks(self, context: TaskContext) -> Sequence[Question | str]:
        kinds = KINDS if self.options_as(KnowRLOptions).infeasible else KINDS[:1]
        return [Question(str(i), topic, (kinds[i % len(kinds)],)) for i, topic in enumerate(context.data.topics)]

    async def play(self, play: Play, task: Task) -> Sequence[Trajectory]:
        (kind,) = task.references
        written = await play.act("writer", topic=task.question, kind=kind, examples=self._examples(play, kind))
        if written.output is None:
            return (written,)
        asked, answer = Question(written.task.id, written.output), written.output_answer or ""
        said = (play.act("knower", about=asked, answer=answer) for _ in range(self.options_as(KnowRLOptions).verdicts))
        return written, *await asyncio.gather(*said)

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        return [self._of_play(task.references[0], *acts) for acts in plays]

    def after_step(self, groups: Sequence[Group]) -> None:
        for group in groups:
            if group.role == "writer":
                self._accept(group)

    def _of_play(self, kind: str, written: Trajectory, *said: Trajectory) -> list[RewardOf]:
        verdicts = [as_kind(act.output) for act in said]
        known = normalize(written.output or "") in self.state.items
        earned = question_reward(verdicts, kind) if verdicts and not known else 0.0
        truth = agreed(verdicts)
        return [earned, *(float(truth is not None and verdict == truth) for verdict in verdicts)]

    def _accept(self, group: Group) -> None:
        for written, reward in zip(group.trajectories, group.rewards, strict=True):
            if written.output and reward.total >= self.options_as(KnowRLOptions).accept:
                self.state.add(Question(written.task.id, written.output, written.task.references))

    def _examples(self, play: Play, kind: str) -> str:
        """Return some of the pool's questions of a kind, for the writer to read."""
        known = [item.question.text for _, item in sorted(self.state.items.items()) if kind in item.question.references]
        n = min(self.options_as(KnowRLOptions).shown, len(known))
        return " / ".join(play.rng("shown").sample(known, n)) or "none yet"
