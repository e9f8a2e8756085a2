"""Where a run's time goes: each moment counts for one part alone, the innermost one that is running.

Coroutines take turns on one thread, and every part but the rollout is a plain function or a block without an await: one
clock of nested parts is enough for all of them. The rollout is what is left of a step until its last group is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PARTS = ("rollout", "tool", "reward", "learn", "sync", "commit", "monitor", "evaluation", "rest")  # of a run
OPAQUE = frozenset({"monitor", "evaluation"})  # they read verdicts and answers with the functions that rewards use


class Seconds(NamedTuple):
    """Wall time and processor time."""

    wall: float = 0.0
    processor: float = 0.0  # of the whole process, its other threads included

    def since(self, before: Seconds) -> Seconds:
        """Return what passed since `before`."""
        return Seconds(self.wall - before.wall, self.processor - before.processor)

    def plus(self, other: Seconds) -> Seconds:
        """Return the sum."""
        return Seconds(self.wall + other.wall, self.processor + other.processor)

    def on(self, device: str) -> float:
        """Return the seconds that a benchmark of one process reports.

        On a CPU the processor's, so that other work on the machine does not count; on a GPU wall time.
        """
        return self.wall if device == "cuda" else self.processor


def now() -> Seconds:
    """Return the time. Kernels of a GPU may still run: a part that reads a result of theirs waits for them."""
    return Seconds(time.perf_counter(), time.process_time())


class PartClock:
    """Seconds by part: entering a part stops the one around it, leaving it lets that one go on.

    opaque: parts inside which no other part is entered. overlapped: wall seconds by part on other threads, while a part
    of the clock's own thread was running; they may add up to more than passed.
    """

    def __init__(self, now: Callable[[], Seconds] = now, opaque: frozenset[str] = frozenset()) -> None:
        self.now = now
        self.overlapped: dict[str, float] = {}
        self._seconds: dict[str, Seconds] = {}
        self._opaque, self._since, self._lock = opaque, now(), threading.Lock()
        self._running: list[str] = []  # the innermost part last
        self._thread = 0  # that entered the outermost part

    @property
    def seconds(self) -> Mapping[str, Seconds]:
        """The seconds by part so far, those of the running part included."""
        self._record()
        return dict(self._seconds)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block for a part."""
        thread = threading.get_ident()
        if self._running and thread != self._thread:
            with self._beside(name):
                yield
        elif self._running and self._running[-1] in self._opaque:
            yield
        else:
            self._record()
            self._running.append(name)
            self._thread = thread
            try:
                yield
            finally:
                self._record()
                self._running.pop()

    def timed(self, name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Return a decorator: each call of the function counts for a part."""

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            @wraps(function)
            def run(*args: P.args, **kwargs: P.kwargs) -> T:
                with self.part(name):
                    return function(*args, **kwargs)

            return run

        return decorate

    def _record(self) -> None:
        """Add the time since the last change to the innermost part."""
        now = self.now()
        if self._running:
            name = self._running[-1]
            self._seconds[name] = self._seconds.get(name, Seconds()).plus(now.since(self._since))
        self._since = now

    @contextmanager
    def _beside(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - started
            with self._lock:
                self.overlapped[name] = self.overlapped.get(name, 0.0) + took


CLOCK = PartClock(opaque=OPAQUE)  # of this process: a run enters its parts, wherever in the code they are
