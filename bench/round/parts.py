"""A round under a clock: how long each part of each phase took, and how much work it was.

Every part is a method or function of aslfast that is replaced while a round is recorded and restored after it, so that
aslfast itself needs no hooks. Coroutines take turns on one thread, and all parts but the rollout are plain functions:
one clock of nested parts is enough. The rollout is what is left of a step until its last group is done.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import ParamSpec, TypeVar
from unittest.mock import patch

from aslfast import rewards
from aslfast.learner.batch import Batch
from aslfast.prompts.tool_calls import Call
from aslfast.rollout.search_tool import Observation, SearchTool
from aslfast.rounds import replicas, round
from aslfast.rounds.context import RoundContext
from aslfast.rounds.phase import Phase
from aslfast.rounds.records import StepRecord
from aslfast.systems.asl.judge import Judge
from bench.learner.step_parts import LOSS_PART, STEP_PARTS, timed_methods
from bench.shared.part_clock import PartClock, Seconds

P = ParamSpec("P")
T = TypeVar("T")
Replacement = tuple[object, str, object]  # (owner, name, what to put there)

PARTS = ("rollout", "tool", "reward", "learn", "sync", "commit", "monitor", "rest")
OPAQUE = frozenset({"monitor"})  # it reads verdicts and answers with the functions that the rewards use


@dataclass
class PhaseRecord:
    """What a phase took and did."""

    clock: PartClock
    took: Seconds = field(default_factory=Seconds)  # measured apart from the parts
    steps: list[StepRecord] = field(default_factory=list)
    rollouts: int = 0  # trajectories, of all roles
    tool_overlapped_s: float = 0.0  # in threads, while the rollout went on
    forward_tokens: int = 0
    loss_tokens: int = 0
    pairs: int = 0  # of a query and a key that it attends to

    def parts(self) -> dict[str, Seconds]:
        """Return the seconds by part; they add up to what the phase took."""
        found, learn = self.clock.seconds, Seconds()
        for seconds in self.learn_parts().values():
            learn = learn.plus(seconds)
        return {**{part: found.get(part, Seconds()) for part in PARTS}, "learn": learn}

    def learn_parts(self) -> dict[str, Seconds]:
        """Return the seconds by part of the learner's step."""
        return {part: self.clock.seconds.get(part, Seconds()) for part in STEP_PARTS}


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
        self.record = PhaseRecord(PartClock(now, OPAQUE))  # of the running phase
        self.lock = threading.Lock()

    def replacements(self) -> Iterator[Replacement]:
        """Yield everything that is replaced."""
        context = self.context
        yield round, "run_phase", self.phase(round.run_phase)
        yield replicas, "play_groups", self.rollout(replicas.play_groups)
        yield context.rollout.tool, "tool", TimedTool(context.rollout.tool.tool, self)
        for owner, name, part in self.timed_methods():
            yield owner, name, self.timed(part, getattr(owner, name))
        yield from self.rewards()
        yield context.observer, "step", self.before(self.count_step, context.observer.step)
        yield context.prefix_cache, "release", self.before(self.count_rollout, context.prefix_cache.release)
        packed_model = context.learner.packed_model
        yield packed_model, "attend", self.before(self.count_batch, packed_model.attend)

    def timed_methods(self) -> Iterator[tuple[object, str, str]]:
        """Yield (owner, method, part) for all plain functions but the rewards."""
        context = self.context
        yield Judge, "read", "reward"
        yield context.learner, "step", LOSS_PART
        yield from timed_methods(context.learner)
        yield context.rollout.sampler, "flush", "sync"
        yield context, "check_weight_sync", "sync"
        yield context.checkpointer, "step", "commit"
        yield context.checkpointer, "phase", "commit"
        yield round, "step_health", "monitor"

    def rewards(self) -> Iterator[Replacement]:
        """Yield the functions of aslfast.rewards, those in its tables too."""
        for name in rewards.__all__:
            value = getattr(rewards, name)
            if inspect.isfunction(value):
                yield rewards, name, self.timed("reward", value)
            elif isinstance(value, Mapping):
                yield rewards, name, {key: self.timed("reward", function) for key, function in value.items()}

    def timed(self, part: str, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function, its calls counted for a part of the running phase."""

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.record.clock.part(part):
                return function(*args, **kwargs)

        return run

    def phase(
        self, run_phase: Callable[[RoundContext, Phase], Coroutine[object, object, None]]
    ) -> Callable[[RoundContext, Phase], Coroutine[object, object, None]]:
        """Return `run_phase`, with a record of its own for each phase."""

        async def run(context: RoundContext, phase: Phase) -> None:
            self.record = self.records[phase.name] = PhaseRecord(PartClock(self.now, OPAQUE))
            before = self.now()
            with self.record.clock.part("rest"):
                await run_phase(context, phase)
            self.record.took = self.now().since(before)

        return run

    def rollout(
        self, play_groups: Callable[P, Coroutine[object, object, T]]
    ) -> Callable[P, Coroutine[object, object, T]]:
        """Return `play_groups`, its calls counted for the rollout."""

        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.record.clock.part("rollout"):
                return await play_groups(*args, **kwargs)

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


@dataclass(frozen=True)
class TimedTool:
    """A search in the event loop's thread stops the rollout's clock; one in a thread of its own overlaps with it."""

    tool: SearchTool
    recorder: _Recorder

    def answer(self, calls: Sequence[Call]) -> list[Observation]:
        """Return the tool's answers."""
        if threading.current_thread() is threading.main_thread():
            with self.recorder.record.clock.part("tool"):
                return self.tool.answer(calls)
        started = time.perf_counter()
        try:
            return self.tool.answer(calls)
        finally:
            with self.recorder.lock:
                self.recorder.record.tool_overlapped_s += time.perf_counter() - started
