"""What the rollouts of one optimizer step share: sampler and tool, concurrency limit, seed, counters."""

from __future__ import annotations

from collections.abc import Awaitable, Hashable, Mapping
from dataclasses import dataclass, field, replace

from aslfast.config import RunConfig
from aslfast.config.roles import ROLES, adapter_of
from aslfast.core import StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.prompts.templates import fill, one_line, prompt_text
from aslfast.rollout.counters import StepCounters
from aslfast.rollout.multi_turn import Rollout, Start
from aslfast.rollout.priority_semaphore import PrioritySemaphore


@dataclass(frozen=True)
class RolloutContext:
    """Samples trajectories for the groups of one step; each group gets its own copy from `for_group`."""

    config: RunConfig
    rollout: Rollout
    limit: PrioritySemaphore
    versions: Mapping[str, int]  # of the adapters
    round: int
    seed: int  # of the step
    # trajectories that several groups wait for, running or done, by a key of the system's own
    shared: dict[Hashable, Awaitable[Trajectory]] = field(default_factory=dict)
    counters: StepCounters = field(default_factory=StepCounters)

    def for_group(self) -> RolloutContext:
        """Return this context with counters of its own."""
        return replace(self, counters=StepCounters())

    def asked(self, role: str, prompt: str, **gaps: str) -> str:
        """Return what a role is asked: `prompt`, or where that is empty its own, with the gaps filled.

        Their texts are data: each is one line. The shipped roles' own is, where none is set, that of model.prompts.
        Raise UserError for another role without one.
        """
        template = prompt or self.rollout.roles[role].prompt
        if not template and role in ROLES:
            template = prompt_text(self.config.model.prompts, role)
        if not template:
            raise UserError(f"roles.{role}.prompt is not set, and its act has no prompt; set one of them")
        return fill(template, **{name: one_line(text) for name, text in gaps.items()})

    async def sample(self, task: Task, number: int, start: Start | None = None) -> Trajectory:
        """Return the `number`-th trajectory of a task, once the concurrency limit lets it run.

        start: what it starts from, in place of the task's prompt.
        """
        roles = self.rollout.roles
        adapter = adapter_of(roles, task.role)
        version = self.versions[adapter] if adapter else 0
        async with self.limit.acquire(roles[task.role].depth):
            trajectory = await self.rollout.run(task, number, self.seed, adapter, version, start)
        self.counters.sampled_tokens += trajectory.n_sampled + trajectory.searched_tokens
        self.counters.tool_failed += trajectory.stop is StopReason.TOOL_FAILED
        return trajectory


def max_concurrent(config: RunConfig) -> int:
    """Return how many trajectories may run at once.

    With the local sampler as many as it has slots: more would evict keys and values between turns. An engine keeps
    those of more sequences than it runs, and some wait for the tool: half as many again.
    """
    slots = config.sampler.max_running_requests
    return slots if config.sampler.kind == "local" else slots * 3 // 2
