"""What a round works with: the state that is saved, the parts made from the configuration, and who is told."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aslfast.checkpoint.state import TrainState
from aslfast.config import RunConfig
from aslfast.core import Question
from aslfast.learner.learner import Learner
from aslfast.prompts.builder import PromptBuilder
from aslfast.rollout.context import RolloutContext, max_concurrent
from aslfast.rollout.environments.own_environment import OwnEnvironment
from aslfast.rollout.multi_turn import Rollout, stable_seed
from aslfast.rollout.priority_semaphore import PrioritySemaphore
from aslfast.rounds.commit import Checkpointer
from aslfast.rounds.records import Observer
from aslfast.sampler.prefix_cache_stats import PrefixCacheMeter

Oracle = Callable[[str], str | None]  # a question -> its true answer; None where there is none


@dataclass(frozen=True)
class TrainingData:
    """What the roles learn from. The oracle, of the world to learn in, is the monitor's: no reward sees it."""

    topics: Sequence[str]
    labelled: Sequence[Question] = ()  # real questions, where a recipe learns from any
    oracle: Oracle | None = None
    environment: OwnEnvironment | None = None  # one's own; its tasks may change from phase to phase

    @property
    def real_questions(self) -> Sequence[Question]:
        """The labelled questions, or the tasks of an environment of one's own as they are now."""
        return self.environment.tasks() if self.environment else self.labelled


@dataclass(frozen=True)
class TaskContext:
    """What the tasks of a phase are made from."""

    config: RunConfig
    state: TrainState
    data: TrainingData

    @property
    def prompts(self) -> PromptBuilder:
        """Makes the tasks."""
        return PromptBuilder(self.config.model.prompts, self.config.grm.variant)

    def rng(self, phase: str) -> random.Random:
        """Return a random generator that this round's phase of that name has to itself."""
        return random.Random(stable_seed(self.config.seed, self.state.round, phase))


@dataclass
class RoundContext:
    """The parts of a run. Nothing but `state` and the learner carries anything from one step to the next."""

    config: RunConfig
    state: TrainState
    learner: Learner
    rollout: Rollout
    data: TrainingData
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

    def start_step(self) -> RolloutContext:
        """Return what the rollouts of a new step share. The sampler is flushed: what it kept may move a last bit."""
        self.state.step += 1
        self.prefix_cache.forget()
        self.rollout.sampler.flush()
        seed = stable_seed(self.config.seed, self.state.round, self.state.step)
        rollout = replace(self.rollout, sampler=self.prefix_cache)
        return RolloutContext(self.config, rollout, self.limit, self.learner.version, self.state.round, seed)
