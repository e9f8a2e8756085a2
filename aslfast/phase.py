"""Phases of one's own: who plays what against or after whom, and what each act earns; see docs/recipes/phases.md.

The recipe names one by import path, `phases = ["my_game:Duel"]`, and its roles in the tables [roles.NAME].
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias, TypeVar

import msgspec

from aslfast.config import RunConfig
from aslfast.core import Group, Question, Reward, Span, Task, Trajectory
from aslfast.errors import UserError
from aslfast.prompts.tool_calls import SEARCH, Call
from aslfast.rollout.context import RolloutContext
from aslfast.rollout.multi_turn import stable_seed
from aslfast.rounds.control import Control
from aslfast.rounds.task_context import TaskContext

T = TypeVar("T")

__all__ = [
    "Control", "Group", "OwnPhase", "Play", "Question", "Reward", "RunConfig", "SegmentRewards", "Span", "Task",
    "TaskContext", "Trajectory",
]  # fmt: skip


@dataclass(frozen=True)
class SegmentRewards:
    """A reward by parts of a trajectory: spans, each with its own, beside the trajectory's (docs/recipes/losses.md)."""

    spans: Sequence[Span]
    reward: float | Mapping[str, float] = 0.0


# a number, its parts by name, or by parts of the trajectory; None: not learnt from
RewardOf: TypeAlias = float | Mapping[str, float] | SegmentRewards | None
Played: TypeAlias = tuple[Trajectory, ...]  # the acts of one play


@dataclass
class Play:
    """One play of a task: what a phase's `play` acts with. Each act is a trajectory of one role."""

    context: RolloutContext
    task: Task
    number: int  # of the play, among those of the task
    _acts: int = field(default=0, init=False)
    _settled: list[tuple[Trajectory, RewardOf]] = field(default_factory=list, init=False)

    async def act(self, role: str, prompt: str = "", *, about: Question | None = None, **gaps: str) -> Trajectory:
        """Let a role act. prompt: what it is asked, with {gaps}; empty: its own, roles.NAME.prompt.

        The gaps' texts are data: each is one line of the prompt. about: another question than the task's, such as one
        that was written in the play: it fills {question}, and is that of the trajectory's task, so that acts about it
        are compared with each other alone.
        """
        filled = {"question": about.text, **gaps} if about else gaps
        task = self._next(role, self.context.asked(role, prompt, **filled))
        if about:
            task = replace(task, question=about.text, references=about.references, hops=about.hops)
        return await self.context.sample(task, self.number)

    async def talk(self, role: str, messages: Sequence[str]) -> Trajectory:
        """Let a role act after a conversation: messages of the user's and its own in turn, the last one the user's."""
        if len(messages) % 2 == 0:
            raise UserError(f"an act of {role} starts from {len(messages)} messages; end with the user's")
        start = self.context.rollout.opened_with(role, messages)
        return await self.context.sample(self._next(role, messages[0]), self.number, start)

    async def go_on(
        self, trajectory: Trajectory, message: str, turns: int | None = None, learn_before: bool = True
    ) -> Trajectory:
        """Let a role go on from its trajectory, or from the first `turns` turns of it, after one more message.

        The result holds both parts. learn_before: whether the part before is learnt from in it too.
        """
        start = self.context.rollout.gone_on(trajectory, message, turns, learn_before)
        task = self._next(trajectory.task.role, trajectory.task.prompt)
        return await self.context.sample(task, self.number, start)

    async def search(self, query: str) -> str:
        """Return what the run's search finds, as a role would read it; empty where it does not answer."""
        found = await self.context.rollout.tool.call(Call(SEARCH, {"query": query}))
        return found.text if found else ""

    async def passages(self, query: str, n: int) -> tuple[str, ...]:
        """Return the `n` best passages of the run's search, best first; none where it does not answer."""
        found = await self.context.rollout.tool.call(Call(SEARCH, {"query": query}, n))
        return found.texts if found else ()

    def rng(self, name: str = "") -> random.Random:
        """Return a source of chance that this play has to itself, the same whatever else runs."""
        return random.Random(stable_seed(self.context.seed, self.task.id, self.number, name))

    def settle(self, act: Trajectory, reward: RewardOf) -> None:
        """Fix an act's reward now: what `rewards` gives it later does not count."""
        self._settled.append((act, reward))

    def settled(self, act: Trajectory, reward: RewardOf) -> RewardOf:
        """Return the reward that was fixed for an act, else `reward`."""
        return next((fixed for settled, fixed in self._settled if settled is act), reward)

    def _next(self, role: str, prompt: str) -> Task:
        """Return the task of the next act; its number keeps its samples apart from those of the other acts."""
        self._acts += 1
        return replace(self.task, id=f"{self.task.id}.{role}{self._acts}", role=role, prompt=prompt)


class OwnPhase(ABC):
    """A subclass names its roles and writes `tasks`, `play` and `rewards`.

    state: what it keeps from step to step, of a type that JSON can hold (numbers, texts, lists, dicts by text,
    dataclasses of them); set its initial value in `__init__`. It is committed with each step, read back before the next
    one, and must be changed on every rank alike: not in `play` and `rewards`. All else that the object keeps is lost
    when a run is resumed. options: those of the table [own_phase.NAME.options], which `options_as` reads.
    """

    roles: Sequence[str] = ()  # that play, in the order in which their adapters learn
    options_kind: type | None = None  # the options' dataclass: read when the phase is made, so that a wrong one is told
    state: Any = None

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        self.config, self.options = config, options
        if self.options_kind:
            self.options_as(self.options_kind)

    def options_as(self, kind: type[T]) -> T:
        """Return the options as they are now, as this frozen dataclass. Raise UserError for what it has not."""
        place, known = f"own_phase.{type(self).__name__}.options", [item.name for item in fields(kind)]  # pyright: ignore[reportArgumentType]
        if unknown := sorted(self.options.keys() - set(known)):
            raise UserError(f"unknown key {place}.{unknown[0]}; use {', '.join(known)}")
        try:
            return msgspec.convert(dict(self.options), kind)
        except msgspec.ValidationError as error:
            raise UserError(f"{place}: {error}") from None

    @abstractmethod
    def tasks(self, context: TaskContext) -> Sequence[Question | str]:
        """Return what to play about: asked before each step, which takes its turn of them; repeated where there is too
        little."""

    @abstractmethod
    async def play(self, play: Play, task: Task) -> Sequence[Trajectory]:
        """Play a task once; return the acts to reward."""

    @abstractmethod
    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return the rewards of all plays of a task, act by act, once all of them have been played."""

    async def learn_from(self, control: Control, groups: Sequence[Group]) -> Sequence[Group]:
        """Return what a step learns from, given the groups of all its tasks: the same on every rank.

        Rewards may change here, trajectories be left out, and earlier ones come back. control: to sample, evaluate and
        learn meanwhile, and to copy adapters.
        """
        return groups

    def after_step(self, groups: Sequence[Group]) -> None:  # noqa: B027
        """See what a step came to; the same on every rank."""

    async def after_phase(self, control: Control) -> None:  # noqa: B027
        """Act after the last step of a round: snapshot, restore or evaluate adapters, change settings."""
