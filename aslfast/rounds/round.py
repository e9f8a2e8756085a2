"""One round: its phases, each a few optimizer steps. After arXiv 2510.14253.

A step gathers groups of trajectories on the one sampler, without a barrier between roles (what one waits for starts as
soon as it can), then learns from them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from aslfast.clock import CLOCK
from aslfast.config.roles import PREVIOUS
from aslfast.core import Group, StopReason, Task
from aslfast.errors import UserError
from aslfast.learner.step_metrics import UpdateStats
from aslfast.metrics.health import step_health
from aslfast.rounds import replicas
from aslfast.rounds.context import RoundContext
from aslfast.rounds.control import Control
from aslfast.rounds.group_result import extended_pool
from aslfast.rounds.phase import Phase
from aslfast.rounds.records import GroupSummary, StepRecord, by_role
from aslfast.rounds.revision import revised_groups, revision_counts


async def run_round(context: RoundContext) -> None:
    """Run the phases in the recipe's order. A role that does not learn does only what the next one needs."""
    state = context.state
    if not state.phase_step and not any(number == state.round for number, _ in state.phases_done):
        _copy_previous(context)
    for phase in context.phases:
        if (state.round, phase.name) not in state.phases_done:
            await run_phase(context, phase)


def _copy_previous(context: RoundContext) -> None:
    """Let the adapters NAME@previous be what NAME is, now that the round begins."""
    copies = [name for name in context.config.adapters if name.endswith(PREVIOUS)]
    for name in copies:
        context.learner.copy(name.removesuffix(PREVIOUS), name)
    if copies:
        context.serve()


async def run_phase(context: RoundContext, phase: Phase) -> None:
    """Run a phase, or the rest of one: after a resume it goes on at the step that was not committed."""
    state = context.state
    context.settle(phase.settings.steps)
    if not state.phase_step:
        state.tasks = tuple(map(tuple, phase.tasks_of(context.tasks)[: phase.settings.steps]))
        if phase.settings.steps and not state.tasks:
            context.observer.warning(_skipped(state.round, phase.name))
    for number in range(state.phase_step, len(state.tasks)):
        tasks = phase.tasks_now(context.tasks) if phase.tasks_now else state.tasks[number]
        if phase.is_over(state):
            break
        if not tasks:
            context.observer.warning(_skipped(state.round, phase.name))
            break
        await _run_step(context, phase, tasks)
        context.settle(phase.settings.steps)
    if phase.conclude:
        await phase.conclude(context.control(phase.name))
    phase.after_phase(state)
    steps, state.tasks, state.phase_step, state.step_rewards = state.phase_step, (), 0, ()
    state.phases_done += ((state.round, phase.name),)
    replicas.assert_replicas_in_sync(context.learner, state)
    learned = phase.adapters if phase.settings.learn else ()
    context.checkpointer.phase(phase.name, steps, learned)


def _skipped(number: int, phase: str) -> str:
    return f"round {number}: the {phase} phase is skipped, since no question gives it a task"


async def _run_step(context: RoundContext, phase: Phase, tasks: Sequence[Task]) -> None:
    """Gather a group for each task, learn from them, commit both."""
    started, state = time.perf_counter(), context.state
    rollouts, environment = context.start_step(), context.data.environment
    with CLOCK.part("rollout"):
        played = await replicas.play_groups(
            context.learner.ranks, context.prefix_cache, rollouts, tasks, phase.group_of
        )
    groups = [group for result in played.results for group in result.groups]
    state.pool = extended_pool(state.pool, played.results)
    if not any(group.trajectories for group in groups):
        _nothing_to_learn(context, phase, groups)
        return
    if environment:
        environment.check_unmoved(state.environment)
    control = context.control(phase.name, rollouts)
    revised = await phase.learn_from(control, groups) if phase.learn_from else groups
    updates, weight_sync = _learn(control, phase, revised)
    groups, revision = revised_groups(groups, revised), revision_counts(groups, revised)
    phase.after_step(state, groups)
    if environment and phase.in_environment:
        state.environment = environment.updated(groups)
    state.phase_step += 1
    played.counters.sampled_tokens += control.counters.sampled_tokens
    with CLOCK.part("monitor"):
        health = {**step_health(groups), **phase.health(groups, context.data.oracle), **revision}
        summary, roles = GroupSummary.of(groups), by_role(phase.name, groups)
    record = StepRecord(
        state.round, phase.name, state.phase_step, summary, health, updates, weight_sync, played.counters,
        played.prefix_cache, time.perf_counter() - started, context.speed(), roles, context.settings,
    )  # fmt: skip
    state.step_rewards += (record.summary.reward,)
    context.checkpointer.step(phase.name, groups, record)
    context.observer.step(record)


def _nothing_to_learn(context: RoundContext, phase: Phase, groups: Sequence[Group]) -> None:
    """Skip a step whose plays were all dropped by checks. Raise UserError where tool or environment failed them."""
    environment, number = context.data.environment, context.state.round
    if environment and environment.failure:
        raise UserError(f"round {number}: all of a {phase.name} step failed: {environment.failure}")
    if any(t.stop is StopReason.TOOL_FAILED for group in groups for t in group.failed) or not groups:
        where = f"round {number}: the search tool failed all of a {phase.name} step"
        raise UserError(f"{where}; see that data.index answers")
    context.observer.warning(f"round {number}: a {phase.name} step is skipped, none of its plays has a reward")
    context.state.phase_step += 1


def _learn(
    control: Control, phase: Phase, groups: Sequence[Group]
) -> tuple[dict[str, UpdateStats], Mapping[str, float]]:
    """Take one optimizer step of each adapter that played and learns; also check that the sampler serves them."""
    adapters = phase.adapters if phase.settings.learn else ()
    taken = {adapter: control.update(adapter, groups) for adapter in adapters}
    updates = {adapter: update for adapter, update in taken.items() if update}
    return updates, control.serve() if updates else {}
