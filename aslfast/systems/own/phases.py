"""Phases of one's own in the engine: each play gathered, rewarded after all plays of its task, and grouped by role."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from aslfast import plugins
from aslfast.config import RunConfig
from aslfast.config.schema import OwnPhaseConfig
from aslfast.core import Group, Question, Reward, StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.phase import OwnPhase, Play, Played, RewardOf
from aslfast.rollout.context import RolloutContext
from aslfast.rounds.group_result import GroupResult
from aslfast.rounds.phase import Phase
from aslfast.rounds.schedule import cycled
from aslfast.rounds.task_context import TaskContext
from aslfast.systems.own.plan import settings_of

SETUP_S = 60.0  # of making the phase


def own_phases(config: RunConfig, path: str) -> list[Phase]:
    """Return the phase that an import path names. Raise UserError."""
    settings = settings_of(config, path)
    made = plugins.make_instance(path, "phases", OwnPhase, [config, settings.options], SETUP_S)
    own = _Guarded(path, made, settings)
    adapters = config.adapters_of(own.roles(config))
    return [Phase(plugins.name_in(path), settings, adapters, own.tasks, own.play, after_step=own.after_step)]


@dataclass(frozen=True)
class _Guarded:
    """Calls `own`; what it does wrong ends the run with one line that names it."""

    path: str
    own: OwnPhase
    settings: OwnPhaseConfig

    def roles(self, config: RunConfig) -> Sequence[str]:
        """Return the roles that play. Raise UserError for one that the recipe lacks."""
        names = tuple(self.own.roles)
        unknown = [name for name in names if name not in config.all_roles]
        if not names or unknown:
            what = f"lacks the table roles.{unknown[0]}" if unknown else "is not told which: set its attribute roles"
            raise UserError(f"phases: {self.path} names the roles that play, and the recipe {what}")
        return names

    def tasks(self, context: TaskContext) -> list[list[Task]]:
        """Return the phase's tasks by step, repeated as needed."""
        with _one_line(self.path, "tasks"):
            given = list(self.own.tasks(context))
        number, name, role = context.state.round, plugins.name_in(self.path), self.own.roles[0]
        tasks = [_task(f"{name}{number}-{i}", role, one, self.path) for i, one in enumerate(given)]
        return cycled(tasks, self.settings.steps, self.settings.tasks_per_step)

    async def play(self, context: RolloutContext, task: Task) -> GroupResult:
        """Play one task `group_size` times; then reward all plays."""
        played = await asyncio.gather(*(self._play(context, task, i) for i in range(self.settings.group_size)))
        with _one_line(self.path, "rewards"):
            given = list(self.own.rewards(task, played))
        if len(given) != len(played) or any(len(own) != len(acts) for own, acts in zip(given, played, strict=True)):
            raise UserError(f"phases: {self.path}.rewards returned other than one reward for each act of each play")
        pairs = [pair for acts, own in zip(played, given, strict=True) for pair in zip(acts, own, strict=True)]
        rewarded = [(trajectory, _reward(trajectory, value, self.path)) for trajectory, value in pairs]
        return GroupResult(_by_role(rewarded), context.counters)

    async def _play(self, context: RolloutContext, task: Task, number: int) -> Played:
        play = Play(context, task, number)
        with _one_line(self.path, "play"):
            acts = await self.own.play(play, task)
        if not acts or not all(isinstance(act, Trajectory) for act in acts):
            raise UserError(f"phases: {self.path}.play returned {acts!r:.80}; return the trajectories that it played")
        return tuple(acts)

    def after_step(self, state: object, groups: Sequence[Group]) -> None:
        """Let the phase see what its step came to."""
        with _one_line(self.path, "after_step"):
            self.own.after_step(groups)


@contextmanager
def _one_line(path: str, method: str) -> Iterator[None]:
    """Turn an error of a method of one's own into one line that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"phases: {path}.{method} raised {plugins.described(error)}") from None


def _task(name: str, role: str, given: Question | str, path: str) -> Task:
    """Return a task of a question, or of a text; its prompt is the phase's own affair."""
    if isinstance(given, str):
        return Task(name, role, "", given)
    if not isinstance(given, Question):
        raise UserError(f"phases: {path}.tasks gave {given!r:.80}; give questions (aslfast.core.Question) or texts")
    return Task(f"{name}-{given.id}", role, "", given.text, given.references, given.hops)


def _reward(trajectory: Trajectory, given: RewardOf, path: str) -> Reward | None:
    """Return a trajectory's reward; None where it has none, or the tool failed it. Raise UserError."""
    if given is None or trajectory.stop is StopReason.TOOL_FAILED:
        return None
    try:
        return Reward(plugins.finite_parts(given))
    except ValueError as error:
        what = "give finite numbers, dicts of them, or None"
        raise UserError(f"phases: {path}.rewards gave {error}; {what}") from None


def _by_role(rewarded: Iterable[tuple[Trajectory, Reward | None]]) -> tuple[Group, ...]:
    """Return a group for each role, in the order in which they came."""
    roles: dict[str, list[tuple[Trajectory, Reward | None]]] = {}
    for trajectory, reward in rewarded:
        roles.setdefault(trajectory.task.role, []).append((trajectory, reward))
    return tuple(Group.of(pairs) for pairs in roles.values())
