"""What a round works with: the state that is saved, the parts made from the configuration, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aslfast.checkpoint.state import TrainState
from aslfast.clock import CLOCK
from aslfast.config import RunConfig
from aslfast.config.schedules.effective import Setting, check_settings, settings_at, with_settings
from aslfast.config.schedules.table import At
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
from aslfast.speed import TimeMeter, model_flops_utilization, peak_memory_gb


@dataclass
class RoundContext:
    """The parts of a run. Nothing but `state` and the learner carries anything from one step to the next.

    now: the configuration of the current step. settings: what of it schedules and `set` have set, by key.
    """

    config: RunConfig  # the recipe's
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
        self.now, self.settings = self.config, dict[str, Setting]()
        self._time, self._flops = TimeMeter(), 0.0

    @property
    def tasks(self) -> TaskContext:
        """What the tasks of a phase are made from."""
        return TaskContext(self.now, self.state, self.data)

    def settle(self, steps: int) -> None:
        """Take the settings of the step that is next in a phase of at most so many steps a round."""
        at = At(self.state.round, self.state.phase_step, steps)
        self.settings = settings_at(self.config, at, self.state.settings)
        if self.settings:
            self.now = with_settings(self.config, self.settings)
            self.learner.settle(self.now)

    def set(self, key: str, value: Setting) -> None:
        """Set a key from the next step on, over the recipe and its schedules, until it is set again.

        It is committed with the state: call it before a step or a phase is (as their `after_step` and `after_phase`
        are), and alike on every rank. Raise UserError for a key that may not vary, or a value that it cannot have.
        """
        given = {**self.state.settings, key: value}
        check_settings(self.config, given, key)
        self.state.settings = given

    @CLOCK.timed("sync")
    def serve(self) -> Mapping[str, float]:
        """Let the sampler serve the weights as they are now; return what the check of it measured."""
        self.rollout.sampler.flush()
        return self.check_weight_sync()

    def control(self, name: str, rollouts: RolloutContext | None = None) -> Control:
        """Return what acts on learner and sampler between playing and learning. rollouts: of the step, if there is one;
        else the next number is taken, as for a step."""
        return Control(
            self.now, self.state, self.learner, self.rollout.sampler, rollouts or self.start_step(),
            self.serve, self.observer, self.set, name,
        )  # fmt: skip

    def start_step(self) -> RolloutContext:
        """Return what the rollouts of a new step share. The sampler is flushed: what it kept may move a last bit."""
        self.state.step += 1
        self.prefix_cache.forget()
        with CLOCK.part("sync"):
            self.rollout.sampler.flush()
        seed = stable_seed(self.config.seed, self.state.round, self.state.step)
        return RolloutContext(self.now, self._rollout(), self.limit, self.learner.version, self.state.round, seed)

    def speed(self) -> dict[str, object]:
        """Return where the time went since the last step's record, and how well the learner used its device.

        time: wall seconds by part (aslfast.clock.PARTS), the commit of the step before among them. overlapped: seconds
        of other threads beside that. learn_flops: of all ranks; mfu: their share of what one large matrix product would
        have reached on these devices in the learner's seconds. peak_memory_gb: so far, of this rank. in_flight: most
        requests and tokens of context at once, and the mean of the requests. engine_restarts: so far, if any.
        """
        learner, (parts, beside) = self.learner, self._time.take()
        flops, self._flops = learner.flops - self._flops, learner.flops
        restarts = getattr(self.rollout.sampler, "restarts", 0)  # of an engine in a process of its own
        return {
            "time": parts, **({"overlapped": beside} if beside else {}), "learn_flops": flops,
            "mfu": model_flops_utilization(flops, parts.get("learn", 0.0), learner.model, learner.ranks.size),
            "peak_memory_gb": round(peak_memory_gb(learner.model.device), 3),
            "in_flight": self.prefix_cache.in_flight.take(),
            **({"engine_restarts": restarts} if restarts else {}),
        }  # fmt: skip

    def _rollout(self) -> Rollout:
        """Return the rollout with the settings of the step."""
        metered = replace(self.rollout, sampler=self.prefix_cache)
        return metered.following(self.now) if self.settings else metered
