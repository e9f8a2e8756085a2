"""Phases of one's own in the engine: each play gathered, rewarded after all plays of its task, and grouped by role and
question."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from aslfast import plugins
from aslfast.checkpoint.own_state import kept, with_entries
from aslfast.checkpoint.state import TrainState
from aslfast.clock import CLOCK
from aslfast.config import RunConfig
from aslfast.config.schema import OwnPhaseConfig
from aslfast.core import Group, Question, Reward, StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.phase import OwnPhase, Play, Played, RewardOf, SegmentRewards
from aslfast.rollout.context import RolloutContext
from aslfast.rounds.control import Control
from aslfast.rounds.group_result import GroupResult
from aslfast.rounds.phase import Phase
from aslfast.rounds.schedule import cycled
from aslfast.rounds.task_context import TaskContext

SETUP_S = 60.0  # of making the phase


def own_phases(config: RunConfig, path: str) -> list[Phase]:
    """Return the phase that an import path names. Raise UserError."""
    settings = config.own_phase_of(path)
    made = plugins.make_instance(path, "phases", OwnPhase, [config, settings.options], SETUP_S)
    own = _Guarded(path, made, settings, config)
    adapters = config.adapters_of(own.roles(config))
    revises = type(made).learn_from is not OwnPhase.learn_from
    concludes = type(made).after_phase is not OwnPhase.after_phase
    return [
        Phase(
            own.name, settings, adapters, own.steps, own.play, after_step=own.after_step, tasks_now=own.tasks,
            learn_from=own.learn_from if revises else None, conclude=own.conclude if concludes else None,
        )
    ]  # fmt: skip


@dataclass(frozen=True)
class _Guarded:
    """Calls `own`; what it does wrong ends the run with one line that names it."""

    path: str
    own: OwnPhase
    settings: OwnPhaseConfig
    recipe: RunConfig

    def roles(self, config: RunConfig) -> Sequence[str]:
        """Return the roles that play. Raise UserError for one that the recipe lacks."""
        names = tuple(self.own.roles)
        unknown = [name for name in names if name not in config.all_roles]
        if not names or unknown:
            what = f"lacks the table roles.{unknown[0]}" if unknown else "is not told which: set its attribute roles"
            raise UserError(f"phases: {self.path} names the roles that play, and the recipe {what}")
        return names

    @property
    def name(self) -> str:
        """The phase's name in a run's files."""
        return plugins.name_in(self.path)

    def steps(self, context: TaskContext) -> list[list[Task]]:
        """Return as many empty steps as there are: their tasks are asked for one by one."""
        return [[] for _ in range(self.settings.steps)]

    def tasks(self, context: TaskContext) -> list[Task]:
        """Return the tasks of the next step, repeated as needed; the phase reads first what it kept."""
        self._restore(context.state)
        self._settle(context.config)
        with _one_line(self.path, "tasks"):
            given = list(self.own.tasks(context))
        number, role, step = context.state.round, self.own.roles[0], context.state.phase_step
        tasks = [_task(f"{self.name}{number}-{i}", role, one, self.path) for i, one in enumerate(given)]
        by_step = cycled(tasks, step + 1, self.settings.tasks_per_step)
        return by_step[step] if by_step else []

    async def play(self, context: RolloutContext, task: Task) -> GroupResult:
        """Play one task `group_size` times; then reward all plays."""
        plays = [Play(context, task, number) for number in range(self.settings.group_size)]
        played = await asyncio.gather(*(self._play(play, task) for play in plays))
        with _one_line(self.path, "rewards"), CLOCK.part("reward"):
            given = list(self.own.rewards(task, played))
        if len(given) != len(played) or any(len(own) != len(acts) for own, acts in zip(given, played, strict=True)):
            raise UserError(f"phases: {self.path}.rewards returned other than one reward for each act of each play")
        rewarded = [
            _rewarded(act, play.settled(act, value), self.path)
            for play, acts, values in zip(plays, played, given, strict=True)
            for act, value in zip(acts, values, strict=True)
        ]
        return GroupResult(_by_role(rewarded), context.counters)

    async def learn_from(self, control: Control, groups: Sequence[Group]) -> Sequence[Group]:
        """Return what the step learns from."""
        with _one_line(self.path, "learn_from"):
            taught = list(await self.own.learn_from(control, groups))
        if not all(isinstance(group, Group) for group in taught):
            raise UserError(f"phases: {self.path}.learn_from returned {taught!r:.80}; return a list of groups")
        return taught

    async def conclude(self, control: Control) -> None:
        """Let the phase act after its last step."""
        self._settle(control.config)
        self._restore(control.state)
        with _one_line(self.path, "after_phase"):
            await self.own.after_phase(control)
        self._keep(control.state)

    async def _play(self, play: Play, task: Task) -> Played:
        with _one_line(self.path, "play"):
            acts = await self.own.play(play, task)
        if not acts or not all(isinstance(act, Trajectory) for act in acts):
            raise UserError(f"phases: {self.path}.play returned {acts!r:.80}; return the trajectories that it played")
        return tuple(acts)

    def _settle(self, now: RunConfig) -> None:
        """Let the phase have the configuration and the options of the step, where they are not the recipe's."""
        if now is not self.recipe:
            self.own.config, self.own.options = now, now.own_phase_of(self.path).options

    def after_step(self, state: TrainState, groups: Sequence[Group]) -> None:
        """Let the phase see what its step came to, and keep what it keeps."""
        with _one_line(self.path, "after_step"):
            self.own.after_step(groups)
        self._keep(state)

    def _restore(self, state: TrainState) -> None:
        """Let the phase go on from what was kept: a run without an interruption reads what a resumed one does."""
        if self.own.state is not None:
            with _one_line(self.path, "state"):
                self.own.state = kept(state.own, self.name, self.own.state)

    def _keep(self, state: TrainState) -> None:
        if self.own.state is not None:
            with _one_line(self.path, "state"):
                state.own = with_entries(state.own, self.name, self.own.state)


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


def _rewarded(act: Trajectory, given: RewardOf, path: str) -> tuple[Trajectory, Reward | None]:
    """Return an act with its reward; None where it has none, or the tool failed it. Raise UserError."""
    if given is None or act.stop is StopReason.TOOL_FAILED:
        return act, None
    try:
        if isinstance(given, SegmentRewards):
            act, given = replace(act, spans=tuple(given.spans)), given.reward
        return act, Reward(plugins.finite_parts(given))
    except ValueError as error:
        what = "give finite numbers, dicts of them, SegmentRewards, or None"
        raise UserError(f"phases: {path}.rewards gave {error}; {what}") from None


def _by_role(rewarded: Iterable[tuple[Trajectory, Reward | None]]) -> tuple[Group, ...]:
    """Return a group for each role and what it acted about, in the order in which they came."""
    groups: dict[tuple[str, str], list[tuple[Trajectory, Reward | None]]] = {}
    for trajectory, reward in rewarded:
        groups.setdefault((trajectory.task.role, trajectory.task.question), []).append((trajectory, reward))
    return tuple(Group.of(pairs) for pairs in groups.values())
