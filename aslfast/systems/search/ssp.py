"""SSP, search self-play (arXiv 2510.18821; Alibaba-Quark/SSP@b4797e1): a proposer writes a question to an answer that
it is given, from what it searches; a solver answers it several times. Both are one model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from aslfast.core import Group, Question, Task, Trajectory
from aslfast.filters import AnsweredFrom, Check, Filtered, filtered, rule
from aslfast.metrics.health import queries_of
from aslfast.phase import Control, OwnPhase, Play, Played, RewardOf, RunConfig, TaskContext
from aslfast.pool import Pool
from aslfast.rewards import contains_match, exact_match, normalize

LEAST_CHARS, MOST_CHARS = 10, 1000


def difficulty(right: Sequence[float]) -> float:
    """Return 1 - p, p the share of the solver's K tries that are right (2510.18821; its code has 4 p (1 - p) too)."""
    return 1.0 - sum(right) / len(right)


def sound(trajectory: Trajectory, answer: str, least_words: int) -> bool:
    """Return whether there is a question of a sound length that does not hold its answer (SSP's code)."""
    text = trajectory.output or ""
    return (
        LEAST_CHARS <= len(text) <= MOST_CHARS
        and len(text.split()) >= least_words
        and not contains_match(text, [answer])
    )


def searched(trajectory: Trajectory, least: int) -> bool:
    """Return whether it was made with at least `least` searches, none sent twice, that found something (SSP's code)."""
    sent = [normalize(query) for query in queries_of(trajectory)]
    found = any(turn.passages for turn in trajectory.turns)
    return found and len(set(sent)) == len(sent) >= least


@dataclass
class Asked:
    """Valid questions of earlier steps, and how many steps there were."""

    pool: Pool = field(default_factory=Pool)
    steps: int = 0


@dataclass(frozen=True)
class SSPOptions:
    """tries: K. noise: passages of the gate. reset_every: steps. answer_first: false: a topic is no answer, and the
    proposer gives one with its question."""

    tries: int
    most_hops: int
    least_words: int
    least_searches: int
    noise: int
    reset_every: int
    answer_first: bool


class SearchSelfPlay(OwnPhase):
    """One proposal a play and K tries at it. An invalid one earns 0, and a valid question of before takes its place.

    We differ: the gate's noise is what other answers find, since other proposers still search; right is an exact match,
    without a judge; the same question may stand in for two.
    """

    roles = ("generator", "policy")

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.state: Asked = Asked()
        self.answers: list[str] = []

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        """Return the answers to ask about, in an order of the round, with numbers of hops in turn."""
        self.answers = list(context.data.topics)
        context.rng("answers").shuffle(self.answers)
        options = self.options_as(SSPOptions)
        most, gold = options.most_hops, options.answer_first
        return [Question(f"{i}", a, (a,) if gold else (), 1 + i % most) for i, a in enumerate(self.answers)]

    async def play(self, play: Play, task: Task) -> Played:
        """Return the proposal, and the tries at it or at what takes its place."""
        ask = partial(play.act, "generator", answer=task.question, hops=str(task.hops))
        asked = await filtered(play, ask, self._checks(task))
        question = self._question(play, asked)
        if question is None:
            return (asked.act,)
        n = self.options_as(SSPOptions).tries
        tries = await asyncio.gather(*(play.act("policy", about=question) for _ in range(n)))
        return asked.act, *tries

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return 1 - p for the proposal, and 1 for each right try; a check has settled what an invalid one earns."""
        return [self._of_play(*acts) for acts in plays]

    async def learn_from(self, control: Control, groups: Sequence[Group]) -> Sequence[Group]:
        """Let the solver learn first, then the proposer on the same weights, as SSP's trainer does."""
        control.learn("policy", [group for group in groups if group.role == "policy"])
        return [group for group in groups if group.role != "policy"]

    def after_step(self, groups: Sequence[Group]) -> None:
        """Keep the valid questions; forget all of them every so many steps."""
        for group in groups:
            for act, reward in zip(group.trajectories, group.rewards, strict=True):
                if "difficulty" in reward.parts:
                    self.state.pool.add(Question(act.task.id, act.output or "", (_answer(act),), act.task.hops))
        self.state.steps += 1
        if self.state.steps % self.options_as(SSPOptions).reset_every == 0:
            self.state.pool.reset()

    def _checks(self, task: Task) -> list[Check]:
        own = self.options_as(SSPOptions)
        return [
            rule("sound", lambda act: sound(act, _answer(act), own.least_words), "reward"),
            rule("searched", lambda act: searched(act, own.least_searches), "reward"),
            Check("answerable", AnsweredFrom("reader", self._noise, n_noise=own.noise), "reward"),
        ]

    async def _noise(self, play: Play) -> Sequence[str]:
        """Return what other answers find."""
        n = min(len(self.answers), 1 + self.options_as(SSPOptions).noise)
        others = play.rng("others").sample(self.answers, n)
        return await asyncio.gather(*(play.search(other) for other in others if other != play.task.question))

    def _question(self, play: Play, asked: Filtered) -> Question | None:
        """Return what the solver is to answer; None where there is nothing to stand in for an invalid question."""
        if asked.output is not None:
            return Question(asked.act.task.id, asked.output, (_answer(asked.act),), play.task.hops)
        known = [item.question for _, item in sorted(self.state.pool.items.items())]
        return play.rng("spare").choice(known) if known else None

    def _of_play(self, asked: Trajectory, *tries: Trajectory) -> Sequence[RewardOf]:
        right = [float(exact_match(act.output, act.task.references)) for act in tries]
        return [{"difficulty": difficulty(right)} if right else 0.0, *right]


def _answer(act: Trajectory) -> str:
    """Return the answer that a proposal has: the one it was given, or the one that it gave."""
    return next(iter(act.task.references), act.output_answer or "")
