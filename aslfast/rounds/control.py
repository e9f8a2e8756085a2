"""What may be done between playing and learning: update, sample, evaluate, copy adapters, change settings.

Every rank calls the same in the same order, and has the same results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import float32

from aslfast.checkpoint.state import TrainState
from aslfast.clock import CLOCK
from aslfast.config import RunConfig
from aslfast.config.roles import adapter_of
from aslfast.config.schedules.effective import Setting, check_settings, with_settings
from aslfast.core import Group, Question, Task, Trajectory
from aslfast.errors import UserError
from aslfast.learner.advantage import lesson
from aslfast.learner.advantages.signal import Signal
from aslfast.learner.learner import Learner
from aslfast.learner.step_metrics import UpdateStats
from aslfast.rewards import exact_match
from aslfast.rollout.context import RolloutContext
from aslfast.rollout.counters import StepCounters
from aslfast.rollout.multi_turn import stable_seed
from aslfast.rounds import replicas
from aslfast.rounds.records import Observer
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import Sampler

# |log-prob difference| in nats that float32 rounding may explain: a step's mean, and its largest. Runs of the lab's
# base have 3e-7 and 3e-4 at most; a wrong scale of the logits has 1 and more.
MISMATCH_MEAN, MISMATCH_MAX = 1e-3, 0.1

Samples: TypeAlias = tuple[Trajectory, ...]  # of one question


@dataclass
class Control:
    """Acts on the run's learner and sampler. name: of the phase, for seeds and errors."""

    config: RunConfig
    state: TrainState
    learner: Learner
    sampler: Sampler
    rollout: RolloutContext
    serve: Callable[[], Mapping[str, float]]  # lets the sampler serve the weights as they are now: RoundContext.serve
    observer: Observer
    set: Callable[[str, Setting], None]  # a key of the configuration, from the next step on: RoundContext.set
    name: str = ""
    counters: StepCounters = field(default_factory=StepCounters)  # of `sample` and `evaluate`, over all ranks
    _calls: int = field(default=0, init=False)

    async def sample(self, role: str, questions: Sequence[Question], prompt: str = "", n: int = 1) -> list[Samples]:
        """Return `n` trajectories of a role for each question, with the adapter as it is now.

        prompt: with the gap {question}; empty: the role's own. Other seeds at each call, the same on every rank.
        """
        self._calls += 1
        tasks = [
            Task(f"{self.name}.{self._calls}-{i}-{q.id}", role, self.rollout.asked(role, prompt, question=q.text),
                 q.text, q.references, q.hops)
            for i, q in enumerate(questions)
        ]  # fmt: skip
        context = replace(self.rollout.for_group(), seed=stable_seed(self.rollout.seed, self.name, self._calls))

        async def play(numbered: Sequence[tuple[Task, int]]) -> list[Trajectory]:
            return list(await asyncio.gather(*(context.sample(task, number) for task, number in numbered)))

        with CLOCK.part("rollout"):
            played = await replicas.play_tasks(self.learner.ranks, [(t, i) for t in tasks for i in range(n)], play)
        self.counters.sampled_tokens += sum(trajectory.n_sampled for trajectory in played)
        return [tuple(played[i * n : (i + 1) * n]) for i in range(len(tasks))]

    async def evaluate(self, role: str, questions: Sequence[Question], prompt: str = "", n: int = 1) -> float:
        """Return the share of a role's outputs that match a reference exactly, from 0 to 1. Raise UserError."""
        if not questions:
            raise UserError(f"phases: {self.name} evaluates {role} on no questions; give some")
        played = [trajectory for samples in await self.sample(role, questions, prompt, n) for trajectory in samples]
        return sum(exact_match(t.output, t.task.references) for t in played) / len(played)

    def trying(self, key: str, value: Setting) -> Control:
        """Return a control that samples and evaluates with another value of a key, under the same seeds each time.

        The run keeps its own, unless it is `set`. Raise UserError as `set` does.
        """
        check_settings(self.config, {key: value}, key)
        config = with_settings(self.config, {key: value})
        rollouts = self.rollout
        return replace(self, config=config, rollout=replace(rollouts, rollout=rollouts.rollout.following(config)))

    def copy(self, source: str, target: str) -> None:
        """Let the adapter `target` become what `source` is now, with a fresh optimizer. Raise UserError."""
        for name in (source, target):
            if name not in self.learner.version:
                listed = ", ".join(self.learner.version)
                raise UserError(f"phases: {self.name} copies the adapter {name!r}; there are {listed}")
        self.learner.copy(source, target)
        self.serve()

    def learn(self, adapter: str, groups: Sequence[Group]) -> UpdateStats | None:
        """Take one optimizer step of an adapter from groups of the roles that it plays, and serve it.

        None where they teach nothing. Raise UserError.
        """
        stats = self.update(adapter, groups)
        if stats:
            self.serve()
        return stats

    @CLOCK.timed("learn")
    def update(self, adapter: str, groups: Sequence[Group]) -> UpdateStats | None:
        """Take one optimizer step of an adapter; the sampler does not serve it yet. None: the groups teach nothing."""
        trajectories, signals = self._to_learn_from(adapter, groups)
        if not trajectories:
            return None
        version = self.learner.version[adapter]
        update = self.learner.step(adapter, *replicas.own_part(self.learner.ranks, trajectories, signals))
        if update.grad_norm is None:
            which = ", ".join(update.not_finite) or "no single trajectory, but their sum"
            what = f"a {adapter} step is skipped, its loss or gradient is not finite ({which})"
            self.observer.warning(f"round {self.state.round}: {what}")
        if all(trajectory.adapter_version == version for trajectory in trajectories):
            self._check_mismatch(adapter, update)
        return update

    def _to_learn_from(self, adapter: str, groups: Sequence[Group]) -> tuple[list[Trajectory], list[Signal]]:
        """Return the trajectories of all roles that the adapter plays, with their signals, each role's by its own
        advantages and the adapter's loss."""
        config, state = self.config, self.state
        trajectories: list[Trajectory] = []
        signals: list[Signal] = []
        for role in config.all_roles:
            own = [group for group in groups if group.role == role]
            if own and adapter_of(config.all_roles, role) == adapter:
                taught = lesson(own, config.advantage_of(role), config.loss_of(adapter), state.baselines)
                state.baselines = dict(taught.history)
                trajectories, signals = trajectories + taught.trajectories, signals + taught.signals
        return trajectories, signals

    def _check_mismatch(self, adapter: str, update: UpdateStats) -> None:
        """Raise UserError where learner and local sampler, in float32 on the same weights, differ beyond rounding."""
        exact = isinstance(self.sampler, LocalSampler) and self.learner.packed_model.base.dtype == float32
        mean, largest = update.mismatch or 0.0, update.mismatch_max or 0.0
        if exact and (mean > MISMATCH_MEAN or largest > MISMATCH_MAX):
            what = f"learner and sampler differ by {mean:.2g} nats a token, by {largest:.2g} on one"
            bound = f"rounding explains {MISMATCH_MEAN:g} and {MISMATCH_MAX:g}"
            raise UserError(
                f"round {self.state.round}: a {adapter} step is not taken: {what} ({bound}), so one of them does not "
                "compute this base right; train another base, and report this one"
            )
