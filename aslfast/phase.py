"""Phases of one's own: who plays what against or after whom, and what each act earns; see docs/recipes/phases.md.

The recipe names one by import path, `phases = ["my_game:Duel"]`, and its roles in the tables [roles.NAME].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from aslfast.config import RunConfig
from aslfast.core import Group, Question, Task, Trajectory
from aslfast.errors import UserError
from aslfast.prompts.templates import fill, one_line
from aslfast.rollout.context import RolloutContext
from aslfast.rounds.task_context import TaskContext

__all__ = ["Group", "OwnPhase", "Play", "Question", "RunConfig", "Task", "TaskContext", "Trajectory"]

Played: TypeAlias = tuple[Trajectory, ...]  # the acts of one play
RewardOf: TypeAlias = float | Mapping[str, float] | None  # a number or its parts by name; None: not learnt from


@dataclass
class Play:
    """One play of a task: what a phase's `play` acts with. Each act is a trajectory of one role."""

    context: RolloutContext
    task: Task
    number: int  # of the play, among those of the task
    _acts: int = field(default=0, init=False)

    async def act(self, role: str, prompt: str = "", **gaps: str) -> Trajectory:
        """Let a role act. prompt: what it is asked, with {gaps}; empty: its own, roles.NAME.prompt.

        The gaps' texts are data: each is one line of the prompt.
        """
        template = prompt or self.context.rollout.roles[role].prompt
        if not template:
            raise UserError(f"roles.{role}.prompt is not set, and its act has no prompt; set one of them")
        filled = fill(template, **{name: one_line(text) for name, text in gaps.items()})
        return await self.context.sample(self._next(role, filled), self.number)

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

    def _next(self, role: str, prompt: str) -> Task:
        """Return the task of the next act; its number keeps its samples apart from those of the other acts."""
        self._acts += 1
        return replace(self.task, id=f"{self.task.id}.{role}{self._acts}", role=role, prompt=prompt)


class OwnPhase(ABC):
    """A subclass names its roles and writes `tasks`, `play` and `rewards`.

    What it keeps from step to step is lost when a run is resumed: keep it in the tasks, or do without. options: those
    of the table [own_phase.NAME.options].
    """

    roles: Sequence[str] = ()  # that play, in the order in which their adapters learn

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        self.config, self.options = config, options

    @abstractmethod
    def tasks(self, context: TaskContext) -> Sequence[Question | str]:
        """Return what to play about, at the start of each phase; repeated where there is too little."""

    @abstractmethod
    async def play(self, play: Play, task: Task) -> Sequence[Trajectory]:
        """Play a task once; return the acts to reward, in an order that all plays share."""

    @abstractmethod
    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return the rewards of all plays of a task, act by act, once all of them have been played."""

    def after_step(self, groups: Sequence[Group]) -> None:  # noqa: B027
        """See what a step came to; the same on every rank."""
