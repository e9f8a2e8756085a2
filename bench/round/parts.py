"""A round by part: how long each part of each phase took, and how much work it was.

The parts are those of every run (aslfast.clock), read before and after a phase; the learner's own are finer. What is
counted besides, and the finer parts, are methods that are replaced while a round is recorded and restored after it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar
from unittest.mock import patch

from aslfast.clock import CLOCK, Seconds
from aslfast.clock import PARTS as RUN_PARTS
from aslfast.learner.batch import Batch
from aslfast.rounds import round
from aslfast.rounds.context import RoundContext
from aslfast.rounds.phase import Phase
from aslfast.rounds.records import StepRecord
from bench.learner.step_parts import LOSS_PART, STEP_PARTS, timed_methods

P = ParamSpec("P")
T = TypeVar("T")
Replacement = tuple[object, str, object]  # (owner, name, what to put there)

PARTS = tuple(part for part in RUN_PARTS if part != "evaluation")  # a phase has none


@dataclass
class PhaseRecord:
    """What a phase took and did."""

    seconds: Mapping[str, Seconds] = field(default_factory=dict)  # by part, the learner's finer ones among them
    took: Seconds = field(default_factory=Seconds)  # measured apart from the parts
    steps: list[StepRecord] = field(default_factory=list)
    rollouts: int = 0  # trajectories, of all roles
    tool_overlapped_s: float = 0.0  # in threads, while the rollout went on
    forward_tokens: int = 0
    loss_tokens: int = 0
    pairs: int = 0  # of a query and a key that it attends to

    def parts(self) -> dict[str, Seconds]:
        """Return the seconds by part; they add up to what the phase took."""
        learn = Seconds()
        for seconds in self.learn_parts().values():
            learn = learn.plus(seconds)
        return {**{part: self.seconds.get(part, Seconds()) for part in PARTS}, "learn": learn}

    def learn_parts(self) -> dict[str, Seconds]:
        """Return the seconds by part of the learner's step; its own clock has what the finer ones leave."""
        finer = {part: self.seconds.get(part, Seconds()) for part in STEP_PARTS}
        return {**finer, LOSS_PART: self.seconds.get("learn", Seconds())}


@contextmanager
def recorded(context: RoundContext, now: Callable[[], Seconds]) -> Iterator[dict[str, PhaseRecord]]:
    """Record the phases that `run_round(context)` runs in the block, by name."""
    recorder = _Recorder(context, now)
    with ExitStack() as patches:
        for owner, name, replacement in recorder.replacements():
            patches.enter_context(patch.object(owner, name, replacement))
        yield recorder.records


class _Recorder:
    def __init__(self, context: RoundContext, now: Callable[[], Seconds]) -> None:
        self.context, self.now = context, now
        self.records: dict[str, PhaseRecord] = {}
        self.record = PhaseRecord()  # of the running phase

    def replacements(self) -> Iterator[Replacement]:
        """Yield everything that is replaced."""
        context, packed_model = self.context, self.context.learner.packed_model
        yield CLOCK, "now", self.now
        yield round, "run_phase", self.phase(round.run_phase)
        for owner, name, part in timed_methods(context.learner):
            yield owner, name, CLOCK.timed(part)(getattr(owner, name))
        yield context.observer, "step", self.before(self.count_step, context.observer.step)
        yield context.prefix_cache, "release", self.before(self.count_rollout, context.prefix_cache.release)
        yield packed_model, "attend", self.before(self.count_batch, packed_model.attend)

    def phase(
        self, run_phase: Callable[[RoundContext, Phase], Coroutine[object, object, None]]
    ) -> Callable[[RoundContext, Phase], Coroutine[object, object, None]]:
        """Return `run_phase`, with a record of its own for each phase."""

        async def run(context: RoundContext, phase: Phase) -> None:
            record = self.record = self.records[phase.name] = PhaseRecord()
            seconds, overlapped, before = CLOCK.seconds, CLOCK.overlapped.get("tool", 0.0), self.now()
            with CLOCK.part("rest"):
                await run_phase(context, phase)
            record.took = self.now().since(before)
            record.seconds = {part: s.since(seconds.get(part, Seconds())) for part, s in CLOCK.seconds.items()}
            record.tool_overlapped_s = CLOCK.overlapped.get("tool", 0.0) - overlapped

        return run

    def before(self, count: Callable[P, None], function: Callable[P, T]) -> Callable[P, T]:
        """Return the function, its arguments counted before each call."""

        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            count(*args, **kwargs)
            return function(*args, **kwargs)

        return run

    def count_step(self, record: StepRecord) -> None:
        """Keep the record of a step."""
        self.record.steps.append(record)

    def count_rollout(self, session: str) -> None:
        """Count a trajectory: each ends with the release of its session."""
        self.record.rollouts += 1

    def count_batch(self, batch: Batch) -> None:
        """Count what goes through the model: each micro-batch has one attention."""
        self.record.forward_tokens += len(batch.input_T)
        self.record.loss_tokens += len(batch.source_L)
        self.record.pairs += batch.segments.pairs
