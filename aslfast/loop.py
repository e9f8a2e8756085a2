"""What the phases of a round work with: the state that survives, and what is made anew from the configuration."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aslfast.config import RunConfig
from aslfast.core import Task, Trajectory
from aslfast.learner import Learner
from aslfast.loop_state import LoopState
from aslfast.rollout import Rollout, stable_seed
from aslfast.run_folder import RunFolder


@dataclass
class Loop(LoopState):
    """Nothing here but LoopState's fields may carry anything from one step to the next, apart from the learner."""

    config: RunConfig
    rollout: Rollout
    learner: Learner
    run: RunFolder
    topics: Sequence[str]
    flush: Callable[[], None]  # the sampler's: before each step, since what a cache holds may move a last bit
    report: Callable[[dict[str, Any]], None]  # called with each line of metrics
    notice: Callable[[str], None] = lambda _: None  # called with what a person should know
    sampled_tokens: int = field(default=0, init=False)  # of the step under way; by all roles, attempts and verdicts too
    since: float = field(default_factory=time.perf_counter, init=False)  # when `seconds` was last brought up to date

    def next_step(self) -> None:
        self.step += 1
        self.sampled_tokens = 0
        self.flush()

    def clock(self) -> None:
        """Brings `seconds` up to date: before each commit."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    async def sample(self, task: Task, number: int) -> Trajectory:
        seed = stable_seed(self.config.seed, self.round, self.step)
        trajectory = await self.rollout.run(task, number, seed, task.role, self.learner.version[task.role])
        self.sampled_tokens += trajectory.n_sampled
        return trajectory

    def rng(self, phase: str) -> random.Random:
        return random.Random(stable_seed(self.config.seed, self.round, phase))
