"""PasoDoble: a proposer with passages and a solver, each with weights of its own; new questions of some difficulty pay.

Source: arXiv 2511.11881 and HCY123902/PasoDoble@16dae4f. The loss is Dr. GRPO, by settings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from aslfast.filters import filtered, rule
from aslfast.phase import (
    Control,
    Group,
    OwnPhase,
    Play,
    Played,
    Question,
    RewardOf,
    RunConfig,
    Task,
    TaskContext,
    Trajectory,
)
from aslfast.rewards import contains_match, exact_match, normalize

SOLVED_ABOVE, NEW_ABOVE = 0.2, 0.3  # of a question that pays its proposer: share of right answers, novelty
ALIKE_ABOVE = 0.8  # token-set Jaccard


def novelty(question: str, history: Sequence[str]) -> float:
    """Return div, the share of earlier questions whose word set has a Jaccard similarity of at most 0.8 to this one's.

    Source: the paper; 1 without any. We differ: words of the normalised text, not tokens of the model.
    """
    words = set(normalize(question).split())
    others = [set(normalize(text).split()) for text in history]
    new = [len(words & other) <= ALIKE_ABOVE * len(words | other) for other in others]
    return sum(new) / len(new) if new else 1.0


def proposer_reward(p: float, div: float) -> float:
    """Return 1.1 - p + 0.2 div, 0 where p <= 0.2 or div <= 0.3; p: share of the solver's right answers."""
    return 1.1 - p + 0.2 * div if p > SOLVED_ABOVE and div > NEW_ABOVE else 0.0


def well_formed(act: Trajectory) -> bool:
    """Return whether an act is a question and an answer, neither of which contains the other."""
    question, answer = act.output or "", act.output_answer or ""
    return (
        bool(question and answer) and not contains_match(question, [answer]) and not contains_match(answer, [question])
    )


def teaches(rates: Sequence[float]) -> bool:
    """Return whether any question of a passage is of use: 0.2 < p < 1. Without one, neither player learns from it."""
    return any(SOLVED_ABOVE < p < 1 for p in rates)


@dataclass
class Memory:
    """history: the newest questions, the oldest first; buffer: those to solve, of the proposer's own turn."""

    history: list[str] = field(default_factory=list)
    buffer: list[Question] = field(default_factory=list)


@dataclass(frozen=True)
class PasoDobleOptions:
    """history: questions that novelty looks back on; proposer_steps, solver_steps: of a turn, 0: both learn at once."""

    answers: int = 6  # of the solver to a question
    history: int = 100
    proposer_steps: int = 0
    solver_steps: int = 0


class PasoDoble(OwnPhase):
    """A play: a passage about a topic, a question from it, the solver's answers; or answers to a buffered question."""

    roles = ("generator", "policy")
    options_kind = PasoDobleOptions

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.state = Memory()
        self._solving = False

    def tasks(self, context: TaskContext) -> list[Question]:
        options = self.options_as(PasoDobleOptions)
        turn = context.state.phase_step % max(1, options.proposer_steps + options.solver_steps)
        if turn == 0:
            self.state.buffer = []
        self._solving = bool(self.state.buffer) and turn >= options.proposer_steps > 0
        if self._solving:
            rng = context.rng(f"PasoDoble{context.state.phase_step}")
            return rng.sample(self.state.buffer, len(self.state.buffer))
        return [Question(str(i), topic) for i, topic in enumerate(context.data.topics)]

    async def play(self, play: Play, task: Task) -> Played:
        if self._solving:
            return tuple(await self._answers(play, Question("buffered", task.question, task.references)))
        passage = await play.search(task.question)
        ask = partial(play.act, "generator", topic=task.question, passage=passage)
        found = await filtered(play, ask, [rule("well_formed", well_formed, "reward", 0.0)])
        if found.output is None:
            return (found.act,)
        asked = Question("asked", found.output, (found.output_answer or "",))
        return found.act, *await self._answers(play, asked)

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        rates = [_rate(acts) for acts in plays]
        if not self._solving and not teaches([p for p in rates if p is not None]):
            return [[None for _ in acts] for acts in plays]
        return [[self._reward(act, p) for act in acts] for acts, p in zip(plays, rates, strict=True)]

    async def learn_from(self, control: Control, groups: Sequence[Group]) -> list[Group]:
        """Leave out the solver's answers in the proposer's turn."""
        alone = self.options_as(PasoDobleOptions).proposer_steps > 0 and not self._solving
        return [group for group in groups if not (alone and group.role == "policy")]

    def after_step(self, groups: Sequence[Group]) -> None:
        """Remember what was asked; in the proposer's turn, buffer what paid."""
        options, asked = self.options_as(PasoDobleOptions), [group for group in groups if group.role == "generator"]
        acts = [act for group in asked for act in (*group.trajectories, *group.failed) if act.output]
        self.state.history = [*self.state.history, *(act.output or "" for act in acts)][-options.history :]
        if options.proposer_steps:
            self.state.buffer = [*self.state.buffer, *_paid(asked)]

    def _reward(self, act: Trajectory, p: float | None) -> RewardOf:
        if act.task.role == "policy":
            return float(exact_match(act.output, act.task.references))
        return proposer_reward(p or 0.0, novelty(act.output or "", self.state.history))

    async def _answers(self, play: Play, asked: Question) -> list[Trajectory]:
        answers = range(self.options_as(PasoDobleOptions).answers)
        return list(await asyncio.gather(*(play.act("policy", about=asked) for _ in answers)))


def _rate(acts: Played) -> float | None:
    """Return the share of right answers; None where there are none."""
    given = [exact_match(act.output, act.task.references) for act in acts if act.task.role == "policy"]
    return sum(given) / len(given) if given else None


def _paid(groups: Sequence[Group]) -> list[Question]:
    """Return the questions that earned something."""
    played = [pair for group in groups for pair in zip(group.trajectories, group.rewards, strict=True)]
    return [Question(t.task.id, t.output or "", (t.output_answer or "",)) for t, reward in played if reward.total > 0]
