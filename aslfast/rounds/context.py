"""What a round works with: the state that is saved, the parts made from the configuration, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aslfast.checkpoint.state import TrainState
from aslfast.config import RunConfig
from aslfast.learner.learner import Learner
from aslfast.rollout.context import RolloutContext, max_concurrent
from aslfast.rollout.multi_turn import Rollout, stable_seed
from aslfast.rollout.priority_semaphore import PrioritySemaphore
from aslfast.rounds.commit import Checkpointer
from aslfast.rounds.control import Control
from aslfast.rounds.phase import Phase
from aslfast.rounds.records import Observer
from aslfast.rounds.task_context import TaskContext, TrainingData
from aslfast.sampler.prefix_cache_stats import PrefixCacheMeter


@dataclass
class RoundContext:
    """The parts of a run. Nothing but `state` and the learner carries anything from one step to the next."""

    config: RunConfig
    state: TrainState
    learner: Learner
    rollout: Rollout
    data: TrainingData
    phases: Sequence[Phase]  # of a round, in order
    checkpointer: Checkpointer
    check_weight_sync: Callable[[], Mapping[str, float]] = dict  # after each push: the sampler serves these weights
    observer: Observer = field(default_factory=Observer)

    def __post_init__(self) -> None:
        self.prefix_cache = PrefixCacheMeter(self.rollout.sampler, self.learner.version)
        self.limit = PrioritySemaphore(max_concurrent(self.config))

    @property
    def tasks(self) -> TaskContext:
        """What the tasks of a phase are made from."""
        return TaskContext(self.config, self.state, self.data)

    def control(self, name: str, rollouts: RolloutContext | None = None) -> Control:
        """Return what acts on learner and sampler between playing and learning. rollouts: of the step, if there is one;
        else the next number is taken, as for a step."""
        return Control(
            self.config, self.state, self.learner, self.rollout.sampler, rollouts or self.start_step(),
            self.check_weight_sync, self.observer, name,
        )  # fmt: skip

    def start_step(self) -> RolloutContext:
        """Return what the rollouts of a new step share. The sampler is flushed: what it kept may move a last bit."""
        self.state.step += 1
        self.prefix_cache.forget()
        self.rollout.sampler.flush()
        seed = stable_seed(self.config.seed, self.state.round, self.state.step)
        rollout = replace(self.rollout, sampler=self.prefix_cache)
        return RolloutContext(self.config, rollout, self.limit, self.learner.version, self.state.round, seed)
