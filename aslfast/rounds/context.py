"""What the phases of a round work with: the state that survives, and what is made anew from the configuration."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from aslfast.checkpoint.run_dir import RunDir
from aslfast.checkpoint.state import PoolQuestion, TrainState
from aslfast.config import RunConfig
from aslfast.core import Role, StopReason, Task, Trajectory
from aslfast.data.qa_dataset import Question
from aslfast.distributed.process_group import ProcessGroup
from aslfast.learner.learner import Learner
from aslfast.rewards import normalize
from aslfast.rollout.judge import Judging
from aslfast.rollout.multi_turn import Rollout, stable_seed
from aslfast.rollout.priority_semaphore import PrioritySemaphore
from aslfast.sampler.prefix_cache_stats import PrefixCacheMeter

DEPTH: dict[Role, int] = {"generator": 0, "policy": 1, "grm": 2}  # who waits for whom: for the gate


@dataclass
class Loop(TrainState):
    """Nothing here but LoopState's fields may carry anything from one step to the next, apart from the learner.

    The counts are of the step under way, all roles'.
    """

    config: RunConfig
    rollout: Rollout
    learner: Learner
    run: RunDir
    topics: Sequence[str]
    flush: Callable[[], None]  # the sampler's: before each step, since what a cache holds may move a last bit
    report: Callable[[dict[str, Any]], None]  # called with each line of metrics
    notice: Callable[[str], None] = lambda _: None  # called with what a person should know
    labelled: Sequence[Question] = ()  # real questions, where a recipe learns from any
    prove: Callable[[], dict[str, float]] = dict  # after each push: that the sampler serves these weights
    oracle: Callable[[str], str | None] | None = None  # of the world to learn in: for the monitor, never for a reward
    sampled_tokens: int = field(default=0, init=False)
    tool_failed: int = field(default=0, init=False)  # trajectories
    judging: Judging = field(init=False)
    meter: PrefixCacheMeter = field(init=False)
    gate: PrioritySemaphore = field(init=False)
    offered: dict[str, list[PoolQuestion]] = field(default_factory=dict, init=False)  # by task, in this step
    since: float = field(default_factory=time.perf_counter, init=False)  # when `seconds` was last brought up to date

    @property
    def ranks(self) -> ProcessGroup:
        return self.learner.ranks

    def __post_init__(self) -> None:
        self.meter = PrefixCacheMeter(self.rollout.sampler, self.learner.version)
        self.rollout = replace(self.rollout, sampler=self.meter)
        self.gate = PrioritySemaphore(trajectories_at_once(self.config))
        self._count_anew()

    def next_step(self) -> None:
        self.step += 1
        self._count_anew()
        self.flush()

    def _count_anew(self) -> None:
        self.sampled_tokens = self.tool_failed = 0
        self.offered = {}
        grm = self.config.grm
        self.judging = Judging(self.sample, self.config.model.prompts, grm.variant, grm.share_verdicts)
        self.meter.forget()

    def clock(self) -> None:
        """Brings `seconds` up to date: before each commit."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    async def sample(self, task: Task, number: int) -> Trajectory:
        """Waits for its place among the trajectories under way."""
        seed = stable_seed(self.config.seed, self.round, self.step)
        async with self.gate.inside(DEPTH[task.role]):
            trajectory = await self.rollout.run(task, number, seed, task.adapter, self.learner.version[task.adapter])
        self.sampled_tokens += trajectory.n_sampled
        self.tool_failed += trajectory.stop is StopReason.TOOL_FAILED
        return trajectory

    def offer(self, task: Task, question: PoolQuestion) -> None:
        """A question that passed the gate enters the pool; at the end of the step those of all ranks do."""
        self.offered.setdefault(task.id, []).append(question)
        self.pool.setdefault(normalize(question.question), question)

    def counts(self) -> dict[str, Any]:
        """For the line of metrics."""
        return {
            "sampled_tokens": self.sampled_tokens,
            "tool_failed": self.tool_failed,
            "verdicts_reused": self.judging.reused / max(1, self.judging.asked),
            "reuse": {name: asdict(reuse) for name, reuse in self.meter.take().items()},
        }

    def rng(self, phase: str) -> random.Random:
        return random.Random(stable_seed(self.config.seed, self.round, phase))


def trajectories_at_once(config: RunConfig) -> int:
    """As many as the sampler has rows: of more, the local sampler would lose keys and values between turns.

    An engine keeps those of more sessions than it has rows, and some of them wait for the tool: half as many again.
    """
    rows = config.sampler.max_running_requests
    return rows if config.sampler.kind == "local" else rows * 3 // 2
