"""One round of Agentic Self-Learning: generator phase -> GRM phase -> policy phase -> measured against the truth.

After arXiv 2510.14253. Every phase is a few optimizer steps; a step gathers groups of trajectories on the one sampler,
without a barrier between roles (a question's attempts start when it is written, a verdict when its attempt is done),
then learns from them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from aslfast.core import Group, Task
from aslfast.data.trajectories import Record
from aslfast.errors import UserError
from aslfast.learner.advantage import advantages
from aslfast.metrics.health import step_health
from aslfast.rounds import commit, replicas
from aslfast.rounds.context import Loop
from aslfast.rounds.phases import Phase, phases_of


async def run_round(loop: Loop) -> None:
    """The phases, in the order that the recipe gives. A role that does not learn only does what the next one needs."""
    for phase in phases_of(loop.config):
        if (loop.round, phase.name) not in loop.phases_done:
            await _phase(loop, phase)


async def _phase(loop: Loop, phase: Phase) -> None:
    """A phase, or what is left of one: after a resume it goes on at the step that was not committed."""
    if not loop.phase_step:
        loop.tasks = tuple(map(tuple, phase.tasks_of(loop)[: phase.config.steps]))
        if phase.config.steps and not loop.tasks:
            text = f"round {loop.round}: the {phase.name} phase is skipped, since no question gives it a task"
            loop.notice(text)
    for tasks in loop.tasks[loop.phase_step :]:
        if phase.is_over(loop):
            break
        groups, line = await _step(loop, phase, tasks)
        phase.note(loop, groups)
        loop.phase_step += 1
        loop.step_rewards += (line["reward"],)
        line = {"round": loop.round, "phase": phase.name, "step": loop.phase_step, **line}
        commit.step(loop, phase.name, _records(loop, groups), line)
        loop.report(line)
    phase.close(loop)
    steps, loop.tasks, loop.phase_step, loop.step_rewards = loop.phase_step, (), 0, ()
    loop.phases_done += ((loop.round, phase.name),)
    replicas.assert_replicas_in_sync(loop.learner, loop)
    commit.phase(loop, phase.name, steps, phase.config.learn)


def _records(loop: Loop, groups: Sequence[Group]) -> list[Record]:
    """Those that the tool lost have no reward."""
    graded = [pair for group in groups for pair in zip(group.trajectories, group.rewards, strict=True)]
    lost = [(trajectory, None) for group in groups for trajectory in group.lost]
    return [Record(trajectory, given, loop.round, loop.phase_step) for trajectory, given in graded + lost]


async def _step(loop: Loop, phase: Phase, tasks: Sequence[Task]) -> tuple[list[Group], dict[str, Any]]:
    """Gathers a group for each task, then learns from them; also a line of metrics."""
    started = time.perf_counter()
    loop.next_step()
    groups = await replicas.groups(loop, tasks, phase.group_of)
    if not any(group.trajectories for group in groups):
        text = f"round {loop.round}: the search tool failed all of a {phase.name} step; see that data.index answers"
        raise UserError(text)
    stats = learn_from(loop, phase.name, groups) if phase.config.learn else dict(NO_UPDATE)
    seconds = time.perf_counter() - started
    timing = {"tokens_per_s": loop.sampled_tokens / seconds, "seconds": seconds}
    figures = {**summary(groups), **step_health(phase.role, groups, loop.oracle)}
    return groups, {**figures, **stats, **loop.counts(), **timing}


NO_UPDATE = {"kl": None, "grad_norm": 0.0, "loss": 0.0}


def learn_from(loop: Loop, adapter: str, groups: Sequence[Group]) -> dict[str, Any]:
    """One optimizer step, unless there is nothing to learn from."""
    trajectories, advantage = advantages(groups, loop.config.advantage)
    if not trajectories:
        return dict(NO_UPDATE)
    stats = loop.learner.step(adapter, *replicas.own_part(loop.ranks, trajectories, advantage))
    if stats.grad_norm is None:
        which = ", ".join(stats.not_finite) or "no single trajectory, but their sum"
        loop.notice(f"round {loop.round}: a {adapter} step is skipped, its loss or gradient is not finite ({which})")
    loop.flush()
    return {**asdict(stats), **loop.prove()}


def summary(groups: Sequence[Group]) -> dict[str, Any]:
    """Reward and its parts (means over the role's trajectories) and its entropy: minus the mean log-prob of the sampled
    tokens, an unbiased estimate of the mean per-token entropy in nats. Lost trajectories are counted and left out."""
    trajectories = [t for g in groups for t in g.trajectories]
    given = [r for g in groups for r in g.rewards]
    return {
        "reward": sum(r.total for r in given) / len(given),
        "reward_parts": {name: sum(r.parts[name] for r in given) / len(given) for name in given[0].parts},
        "entropy": -sum(sum(t.logprobs) for t in trajectories) / max(1, sum(t.n_sampled for t in trajectories)),
        "finished": sum(t.output is not None for t in trajectories) / len(trajectories),
        "zero_variance_groups": sum(len({r.total for r in g.rewards}) <= 1 for g in groups) / len(groups),
        "trajectories": len(trajectories),
        "lost": sum(len(g.lost) for g in groups),
    }  # fmt: skip
