"""One round: its phases, each a few optimizer steps. After arXiv 2510.14253.

A step gathers groups of trajectories on the one sampler, without a barrier between roles (what one waits for starts as
soon as it can), then learns from them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from torch import float32

from aslfast.core import Group, Task, Trajectory
from aslfast.errors import UserError
from aslfast.learner.advantage import lesson
from aslfast.learner.advantages.signal import Signal
from aslfast.learner.step_metrics import UpdateStats
from aslfast.metrics.health import step_health
from aslfast.rounds import replicas
from aslfast.rounds.context import RoundContext
from aslfast.rounds.group_result import extended_pool
from aslfast.rounds.phase import Phase
from aslfast.rounds.records import GroupSummary, StepRecord
from aslfast.sampler.local.sampler import LocalSampler

# |log-prob difference| in nats that float32 rounding may explain: a step's mean, and its largest. Runs of the lab's
# base have 3e-7 and 3e-4 at most; a wrong scale of the logits has 1 and more.
MISMATCH_MEAN, MISMATCH_MAX = 1e-3, 0.1


async def run_round(context: RoundContext) -> None:
    """Run the phases in the recipe's order. A role that does not learn does only what the next one needs."""
    state = context.state
    for phase in context.phases:
        if (state.round, phase.name) not in state.phases_done:
            await run_phase(context, phase)


async def run_phase(context: RoundContext, phase: Phase) -> None:
    """Run a phase, or the rest of one: after a resume it goes on at the step that was not committed."""
    state = context.state
    if not state.phase_step:
        state.tasks = tuple(map(tuple, phase.tasks_of(context.tasks)[: phase.settings.steps]))
        if phase.settings.steps and not state.tasks:
            text = f"round {state.round}: the {phase.name} phase is skipped, since no question gives it a task"
            context.observer.warning(text)
    for tasks in state.tasks[state.phase_step :]:
        if phase.is_over(state):
            break
        await _run_step(context, phase, tasks)
    phase.after_phase(state)
    steps, state.tasks, state.phase_step, state.step_rewards = state.phase_step, (), 0, ()
    state.phases_done += ((state.round, phase.name),)
    replicas.assert_replicas_in_sync(context.learner, state)
    learned = phase.adapters if phase.settings.learn else ()
    context.checkpointer.phase(phase.name, steps, learned)


async def _run_step(context: RoundContext, phase: Phase, tasks: Sequence[Task]) -> None:
    """Gather a group for each task, learn from them, commit both."""
    started, state = time.perf_counter(), context.state
    rollouts = context.start_step()
    played = await replicas.play_groups(context.learner.ranks, context.prefix_cache, rollouts, tasks, phase.group_of)
    groups, environment = [group for result in played.results for group in result.groups], context.data.environment
    state.pool = extended_pool(state.pool, played.results)
    if not any(group.trajectories for group in groups):
        if environment and environment.failure:
            raise UserError(f"round {state.round}: all of a {phase.name} step failed: {environment.failure}")
        where = f"round {state.round}: the search tool failed all of a {phase.name} step"
        raise UserError(f"{where}; see that data.index answers")
    if environment:
        environment.check_unmoved(state.environment)
    updates, weight_sync = _learn(context, phase, groups)
    phase.after_step(state, groups)
    if environment and phase.in_environment:
        state.environment = environment.updated(groups)
    state.phase_step += 1
    record = StepRecord(
        state.round, phase.name, state.phase_step, GroupSummary.of(groups),
        {**step_health(groups), **phase.health(groups, context.data.oracle)}, updates, weight_sync, played.counters,
        played.prefix_cache, time.perf_counter() - started, _by_role(groups),
    )  # fmt: skip
    state.step_rewards += (record.summary.reward,)
    context.checkpointer.step(phase.name, [*updates], groups, record)
    context.observer.step(record)


def _by_role(groups: Sequence[Group]) -> dict[str, GroupSummary]:
    """Return a summary of each role's groups, where several have played."""
    roles = {role: [g for g in groups if g.role == role] for role in dict.fromkeys(g.role for g in groups)}
    several = {role: own for role, own in roles.items() if any(g.trajectories for g in own)}
    return {role: GroupSummary.of(own) for role, own in several.items()} if len(several) > 1 else {}


def _learn(
    context: RoundContext, phase: Phase, groups: Sequence[Group]
) -> tuple[dict[str, UpdateStats], Mapping[str, float]]:
    """Take one optimizer step of each adapter that played and learns; also check that the sampler serves them."""
    updates: dict[str, UpdateStats] = {}
    for adapter in phase.adapters if phase.settings.learn else ():
        trajectories, signals = _to_learn_from(context, adapter, groups)
        if trajectories:
            updates[adapter] = _update(context, adapter, trajectories, signals)
    if not updates:
        return {}, {}
    context.rollout.sampler.flush()
    return updates, context.check_weight_sync()


def _to_learn_from(
    context: RoundContext, adapter: str, groups: Sequence[Group]
) -> tuple[list[Trajectory], list[Signal]]:  # fmt: skip
    """Return the trajectories of all roles that the adapter plays, with their signals, each role's by its own
    advantages and the adapter's loss."""
    config, state = context.config, context.state
    trajectories: list[Trajectory] = []
    signals: list[Signal] = []
    for role in config.all_roles:
        own = [group for group in groups if group.role == role]
        if own and config.adapter_of(role) == adapter:
            taught = lesson(own, config.advantage_of(role), config.loss_of(adapter), state.baselines)
            state.baselines = dict(taught.history)
            trajectories, signals = trajectories + taught.trajectories, signals + taught.signals
    return trajectories, signals


def _update(
    context: RoundContext, adapter: str, trajectories: Sequence[Trajectory], signals: Sequence[Signal]
) -> UpdateStats:
    update = context.learner.step(adapter, *replicas.own_part(context.learner.ranks, trajectories, signals))
    if update.grad_norm is None:
        which = ", ".join(update.not_finite) or "no single trajectory, but their sum"
        what = f"a {adapter} step is skipped, its loss or gradient is not finite ({which})"
        context.observer.warning(f"round {context.state.round}: {what}")
    _check_mismatch(context, adapter, update)
    return update


def _check_mismatch(context: RoundContext, adapter: str, update: UpdateStats) -> None:
    """Raise UserError where learner and local sampler, both in float32 on the same weights, differ beyond rounding."""
    exact = isinstance(context.rollout.sampler, LocalSampler) and context.learner.packed_model.base.dtype == float32
    mean, largest = update.mismatch or 0.0, update.mismatch_max or 0.0
    if exact and (mean > MISMATCH_MEAN or largest > MISMATCH_MAX):
        what = f"learner and sampler differ by {mean:.2g} nats a token, by {largest:.2g} on one"
        bound = f"rounding explains {MISMATCH_MEAN:g} and {MISMATCH_MAX:g}"
        raise UserError(
            f"round {context.state.round}: a {adapter} step is not taken: {what} ({bound}), so one of them does not "
            "compute this base right; train another base, and report this one"
        )
