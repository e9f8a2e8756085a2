"""Samplers around samplers: one that measures how full its sampler is, one without reuse, one that picks by role."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aslfast.sampler.protocol import Sample, Sampler, SampleRequest


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full a sampler was over some time. Queued requests count as running."""

    slots: float  # fraction of the slots in use, on average
    below_capacity: float  # fraction of the time with fewer requests than slots
    empty: float  # fraction of the time without a request

    @classmethod
    def total(cls, parts: list[Occupancy], n_engines: int) -> Occupancy:
        """Return the mean over engines of equally many slots."""
        return cls(
            sum(p.slots for p in parts) / n_engines,
            sum(p.below_capacity for p in parts) / n_engines,
            sum(p.empty for p in parts) / n_engines,
        )


@dataclass
class OccupancyMeter:
    """A sampler that passes everything on to another of `n_slots` slots, and measures how full that one is."""

    sampler: Sampler
    n_slots: int
    _running: int = 0
    _since: float = field(default_factory=time.perf_counter)
    _empty_s: float = 0.0
    _below_s: float = 0.0
    _slot_s: float = 0.0  # integral of the fraction of slots in use

    def start(self) -> None:
        """Start the sampler."""
        self.sampler.start()

    async def generate(self, request: SampleRequest) -> Sample:
        """Sample one turn."""
        self._count(+1)
        try:
            return await self.sampler.generate(request)
        finally:
            self._count(-1)

    def restart(self) -> None:
        """Measure from now on."""
        self._since, self._empty_s, self._below_s, self._slot_s = time.perf_counter(), 0.0, 0.0, 0.0

    def occupancy(self, seconds: float) -> Occupancy:
        """Return how full the sampler was in the `seconds` since `restart`."""
        self._count(0)
        return Occupancy(self._slot_s / seconds, self._below_s / seconds, self._empty_s / seconds)

    def _count(self, change: int) -> None:
        now = time.perf_counter()
        passed, self._since = now - self._since, now
        self._empty_s += passed * (self._running == 0)
        self._below_s += passed * (self._running < self.n_slots)
        self._slot_s += passed * min(self._running, self.n_slots) / self.n_slots
        self._running += change

    def release(self, session: str) -> None:
        """Forget a session."""
        self.sampler.release(session)

    def abort(self, session: str) -> None:
        """End a session's running request."""
        self.sampler.abort(session)

    def flush(self) -> None:
        """Drop all keys and values."""
        self.sampler.flush()

    def close(self) -> None:
        """Close the sampler."""
        self.sampler.close()


@dataclass
class SamplerByRole:
    """One sampler a role. `role_of` tells whose request it is."""

    samplers: Mapping[str, Sampler]
    role_of: Callable[[SampleRequest], str]

    def start(self) -> None:
        """Start all samplers."""
        for sampler in self.samplers.values():
            sampler.start()

    async def generate(self, request: SampleRequest) -> Sample:
        """Sample one turn with the role's sampler."""
        return await self.samplers[self.role_of(request)].generate(request)

    def release(self, session: str) -> None:
        """Forget a session; only one sampler knows it."""
        for sampler in self.samplers.values():
            sampler.release(session)

    def abort(self, session: str) -> None:
        """End a session's running request; only one sampler has it."""
        for sampler in self.samplers.values():
            sampler.abort(session)

    def flush(self) -> None:
        """Drop all keys and values."""
        for sampler in self.samplers.values():
            sampler.flush()

    def close(self) -> None:
        """Close all samplers."""
        for sampler in self.samplers.values():
            sampler.close()
