"""The variants of a generator step that are compared: which engines play it, and by which schedule."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aslfast.config.roles import ROLES
from aslfast.sampler.protocol import Sampler
from bench.rollout.engines import EngineFactory
from bench.rollout.occupancy import Occupancy, OccupancyMeter, SamplerByRole
from bench.rollout.schedules import ForcedStep, as_graph, role_by_role, turn_by_turn

OURS, MERGED = "ours", "merged weights"
VARIANTS = ("barriers", "no prefix cache", "engine per role", MERGED)


@dataclass(frozen=True)
class Variant:
    """`play` runs a step over `sampler` once. adapters false: the weights of a role are merged into its base."""

    sampler: Sampler
    engines: Sequence[OccupancyMeter]
    play: Callable[[ForcedStep], Coroutine[Any, Any, None]] = as_graph
    adapters: bool = True

    def occupancy(self, seconds: float) -> Occupancy:
        """Return how full the variant's engines were in the `seconds` since they were restarted."""
        parts = [engine.occupancy(seconds) for engine in self.engines]
        return Occupancy.total(parts, len(parts))


@dataclass(frozen=True)
class MergedVariant(Variant):
    """One engine whose weights change from stage to stage, here as three engines of which one is in use at a time."""

    def occupancy(self, seconds: float) -> Occupancy:
        """Return how full the one engine was."""
        total = Occupancy.total([engine.occupancy(seconds) for engine in self.engines], 1)
        unused = len(self.engines) - 1  # at any time the others stand empty, since they are this one
        return Occupancy(total.slots, total.below_capacity - unused, total.empty - unused)


def open_variant(factory: EngineFactory, name: str, ours: OccupancyMeter) -> Variant:
    """Return the variant of that name; what it shares with ours is not started again."""
    n_slots = ours.n_slots
    if name == OURS:
        return Variant(ours, [ours])
    if name == "barriers":
        return Variant(ours, [ours], turn_by_turn)
    if name == "no prefix cache":
        engine = factory.with_adapters(n_slots, prefix_cache=False)
        return Variant(engine, [engine])
    if name == "engine per role":
        thirds = {role: factory.with_adapters(max(1, n_slots // len(ROLES))) for role in ROLES}
        return Variant(SamplerByRole(thirds, lambda request: request.adapter or ""), list(thirds.values()))
    return _merged(factory, n_slots)


def _merged(factory: EngineFactory, n_slots: int) -> Variant:
    merged = {role: factory.merged(role, n_slots) for role in ROLES}
    loaded: list[str] = ["generator"]

    def load(role: str) -> None:
        loaded[:] = [role]

    sampler = SamplerByRole(merged, lambda _: loaded[0])
    return MergedVariant(sampler, list(merged.values()), partial(role_by_role, before=load), adapters=False)
