"""Where time goes: each moment counts for one part alone, the innermost that is under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class Seconds(NamedTuple):
    wall: float = 0.0
    processor: float = 0.0  # of the whole process, its other threads included

    def since(self, before: Seconds) -> Seconds:
        return Seconds(self.wall - before.wall, self.processor - before.processor)

    def plus(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.processor + other.processor)


def now_on(device: str) -> Callable[[], Seconds]:
    """Now; on a GPU once it has done what it was given, since kernels return before they have run."""

    def now() -> Seconds:
        if device == "cuda":
            torch.cuda.synchronize()
        return Seconds(time.perf_counter(), time.process_time())

    return now


class PartClock:
    """Of one thread. Entering a part stops the one around it, leaving it lets that go on. `whole`: parts inside which
    no other is entered."""

    def __init__(self, now: Callable[[], Seconds], whole: frozenset[str] = frozenset()) -> None:
        self.seconds: dict[str, Seconds] = {}
        self._now, self._whole, self._under_way, self._since = now, whole, [], now()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self._under_way and self._under_way[-1] in self._whole:
            yield
            return
        self._book()
        self._under_way.append(name)
        try:
            yield
        finally:
            self._book()
            self._under_way.pop()

    def _book(self) -> None:
        """What has passed, to the part under way."""
        now = self._now()
        if self._under_way:
            name = self._under_way[-1]
            self.seconds[name] = self.seconds.get(name, Seconds()).plus(now.since(self._since))
        self._since = now
