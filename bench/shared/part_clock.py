"""Where time goes: each moment counts for one part alone, the innermost one that is running."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


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


def now_on(device: str) -> Callable[[], Seconds]:
    """Return a clock. On a GPU it waits for the work launched so far, since kernels return before they have run."""

    def now() -> Seconds:
        if device == "cuda":
            torch.cuda.synchronize()
        return Seconds(time.perf_counter(), time.process_time())

    return now


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Return the seconds that a call takes: see `Seconds.on`."""
    now = now_on(device)
    before = now()
    run()
    return now().since(before).on(device)


class PartClock:
    """Seconds by part, on one thread: entering a part stops the one around it, leaving it lets that one go on.

    opaque: parts inside which no other part is entered.
    """

    def __init__(self, now: Callable[[], Seconds], opaque: frozenset[str] = frozenset()) -> None:
        self.seconds: dict[str, Seconds] = {}
        self._now, self._opaque, self._since = now, opaque, now()
        self._running: list[str] = []  # the innermost part last

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block for a part."""
        if self._running and self._running[-1] in self._opaque:
            yield
            return
        self._record()
        self._running.append(name)
        try:
            yield
        finally:
            self._record()
            self._running.pop()

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function, its calls counted for a part."""

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.part(name):
                return function(*args, **kwargs)

        return run

    def _record(self) -> None:
        """Add the time since the last change to the innermost part."""
        now = self._now()
        if self._running:
            name = self._running[-1]
            self.seconds[name] = self.seconds.get(name, Seconds()).plus(now.since(self._since))
        self._since = now
