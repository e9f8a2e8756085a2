"""A round under a clock: how long each part of each phase took, and how much work it was.

Every part is a function of aslfast that is replaced while a round runs and put back after it, so that aslfast itself
has no hooks. Coroutines take turns on one thread, and all parts but the rollout are plain functions: so one clock of
nested parts is enough. The rollout is what is left of a step until its last group is there.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch

from aslfast import rewards
from aslfast.learner.batch import Batch
from aslfast.prompts.role_tasks import Call
from aslfast.rollout.judge import Judging
from aslfast.rollout.search_tool import SearchTool
from aslfast.rounds import commit, replicas, round
from aslfast.rounds.context import Loop
from aslfast.rounds.phases import Phase
from bench.shared.part_clock import PartClock, Seconds

LEARN = {  # the learner's step: the function, and its part
    "step": "packing and loss", "_hidden": "forward", "_logprobs": "head", "_update": "optimizer",
}  # fmt: skip
LEARN_PARTS = ("forward", "head", "backward", "optimizer", "packing and loss")
PARTS = ("rollout", "tool", "reward", "learn", "sync", "commit", "monitor", "rest")
# the monitor reads verdicts and answers with the same functions as the rewards
WHOLE = frozenset({"monitor"})


@dataclass
class PhaseRecord:
    """What a phase took and did."""

    clock: PartClock
    took: Seconds = field(default_factory=Seconds)  # measured apart from the parts
    lines: list[dict[str, Any]] = field(default_factory=list)  # of metrics, one a step
    rollouts: int = 0  # trajectories, of all roles
    tool_overlapped_s: float = 0.0  # in threads, while the rollout went on
    forward_tokens: int = 0
    loss_tokens: int = 0
    pairs: int = 0  # of a query and a key that it sees

    def parts(self) -> dict[str, Seconds]:
        """They add up to what the phase took."""
        found = self.clock.seconds
        learn = Seconds()
        for seconds in self.learn_parts().values():
            learn = learn.plus(seconds)
        return {**{part: found.get(part, Seconds()) for part in PARTS}, "learn": learn}

    def learn_parts(self) -> dict[str, Seconds]:
        return {part: self.clock.seconds.get(part, Seconds()) for part in LEARN_PARTS}


@contextmanager
def recorded(loop: Loop, now: Callable[[], Seconds]) -> Iterator[dict[str, PhaseRecord]]:
    """The phases that `run_round(loop)` plays inside, by name."""
    watch = _Watch(loop, now)
    with ExitStack() as patched:
        for owner, name, replacement in watch.replacements():
            patched.enter_context(patch.object(owner, name, replacement))
        yield watch.records


class _Watch:
    def __init__(self, loop: Loop, now: Callable[[], Seconds]) -> None:
        self.loop, self.now = loop, now
        self.records: dict[str, PhaseRecord] = {}
        self.record = PhaseRecord(PartClock(now, WHOLE))  # of the phase under way
        self.lock = threading.Lock()

    def replacements(self) -> Iterator[tuple[Any, str, Any]]:
        """(owner, name, what to put there)."""
        loop, learner = self.loop, self.loop.learner
        yield round, "_phase", self.phase(round._phase)
        yield replicas, "groups", self.rollout(replicas.groups)
        yield loop.rollout.tool, "tool", TimedTool(loop.rollout.tool.tool, self)
        yield loop, "report", self.report(loop.report)
        yield loop.meter, "release", self.release(loop.meter.release)
        yield learner, "_inputs", self.inputs(learner._inputs)
        yield torch.Tensor, "backward", self.timed("backward", torch.Tensor.backward)
        yield Judging, "opinions", self.timed("reward", Judging.opinions)
        yield round, "step_health", self.timed("monitor", round.step_health)
        named = [(learner, name, part) for name, part in LEARN.items()]
        named += [(loop, name, "sync") for name in ("flush", "prove")]
        named += [(commit, name, "commit") for name in ("step", "phase")]
        for owner, name, part in named:
            yield owner, name, self.timed(part, getattr(owner, name))
        yield from self.rewards()

    def rewards(self) -> Iterator[tuple[Any, str, Any]]:
        for name in rewards.__all__:
            value = getattr(rewards, name)
            if inspect.isfunction(value):
                yield rewards, name, self.timed("reward", value)
            elif isinstance(value, Mapping):
                yield rewards, name, {key: self.timed("reward", function) for key, function in value.items()}

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.record.clock.part(part):
                return function(*args, **kwargs)

        return run

    def phase(self, play: Callable[[Loop, Phase], Any]) -> Callable[[Loop, Phase], Any]:
        async def run(loop: Loop, phase: Phase) -> None:
            self.record = self.records[phase.name] = PhaseRecord(PartClock(self.now, WHOLE))
            before = self.now()
            with self.record.clock.part("rest"):
                await play(loop, phase)
            self.record.took = self.now().since(before)

        return run

    def rollout(self, gather: Callable[..., Any]) -> Callable[..., Any]:
        async def run(*args: Any) -> Any:
            with self.record.clock.part("rollout"):
                return await gather(*args)

        return run

    def report(self, report: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        def run(line: dict[str, Any]) -> None:
            self.record.lines.append(line)
            report(line)

        return run

    def release(self, release: Callable[[str], None]) -> Callable[[str], None]:
        """Every trajectory ends with it."""

        def run(session: str) -> None:
            self.record.rollouts += 1
            release(session)

        return run

    def inputs(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def run(part: Batch, *args: Any) -> Any:
            self.record.forward_tokens += len(part.input_T)
            self.record.loss_tokens += len(part.source_L)
            self.record.pairs += part.segments.pairs
            return make(part, *args)

        return run


@dataclass(frozen=True)
class TimedTool:
    """A search in the loop's own thread stops the rollout's clock; one in a thread of its own runs beside it."""

    tool: SearchTool
    watch: _Watch

    def answer(self, calls: Sequence[Call]) -> list[str]:
        if threading.current_thread() is threading.main_thread():
            with self.watch.record.clock.part("tool"):
                return self.tool.answer(calls)
        started = time.perf_counter()
        try:
            return self.tool.answer(calls)
        finally:
            with self.watch.lock:
                self.watch.record.tool_overlapped_s += time.perf_counter() - started
