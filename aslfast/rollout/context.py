"""What the rollouts of one optimizer step share: sampler and tool, concurrency limit, seed, verdict cache, counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aslfast.config import RunConfig
from aslfast.core import Role, StopReason, Task, Trajectory
from aslfast.prompts.builder import PromptBuilder
from aslfast.rollout.counters import StepCounters
from aslfast.rollout.judge import Judge, VerdictCache
from aslfast.rollout.multi_turn import Rollout
from aslfast.rollout.priority_semaphore import PrioritySemaphore

DEPTH: dict[Role, int] = {"generator": 0, "policy": 1, "grm": 2}  # a role waits for the one below it; deepest first


@dataclass(frozen=True)
class RolloutContext:
    """Samples trajectories for the groups of one step; each group gets its own copy from `for_group`."""

    config: RunConfig
    rollout: Rollout
    limit: PrioritySemaphore
    versions: Mapping[str, int]  # of the adapters
    round: int
    seed: int  # of the step
    verdict_cache: VerdictCache = field(default_factory=VerdictCache)
    counters: StepCounters = field(default_factory=StepCounters)

    def for_group(self) -> RolloutContext:
        """Return this context with counters of its own."""
        return replace(self, counters=StepCounters())

    async def sample(self, task: Task, number: int) -> Trajectory:
        """Return the `number`-th trajectory of a task, once the concurrency limit lets it run."""
        async with self.limit.acquire(DEPTH[task.role]):
            trajectory = await self.rollout.run(task, number, self.seed, task.adapter, self.versions[task.adapter])
        self.counters.sampled_tokens += trajectory.n_sampled
        self.counters.tool_failed += trajectory.stop is StopReason.TOOL_FAILED
        return trajectory

    @property
    def judge(self) -> Judge:
        """The judge, with this context's counters."""
        share = self.config.grm.share_verdicts
        return Judge(self.sample, self.prompts, share, self.verdict_cache, self.counters)

    @property
    def prompts(self) -> PromptBuilder:
        """Makes the tasks."""
        return PromptBuilder(self.config.model.prompts, self.config.grm.variant)


def max_concurrent(config: RunConfig) -> int:
    """Return how many trajectories may run at once.

    With the local sampler as many as it has slots: more would evict keys and values between turns. An engine keeps
    those of more sequences than it runs, and some wait for the tool: half as many again.
    """
    slots = config.sampler.max_running_requests
    return slots if config.sampler.kind == "local" else slots * 3 // 2
