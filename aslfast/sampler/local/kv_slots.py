"""The table of which session's keys and values lie in which slot of the cache."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from aslfast.sampler.local.kv_cache import KVCache


@dataclass(eq=False)
class Slot:
    """One slot and what it holds. used: when its last request ended; -1: it is free."""

    session: str | None = None
    adapter: str | None = None
    ids: list[int] = field(default_factory=list)  # the tokens whose keys and values the slot holds
    used: int = -1


class SlotTable:
    """The slots of a cache: [0, n_running) hold running requests, in the caller's order; the rest are idle or free.

    Running slots are kept together by exchanging two slots when a request starts or ends, so that each step reads a
    slice.
    """

    def __init__(self, cache: KVCache, max_slots: int, max_positions: int) -> None:
        self.cache, self.max_slots, self.max_positions = cache, max_slots, max_positions
        self.n_running = 0
        self._slots: list[Slot] = []
        self._clock = 0

    def drop(self) -> None:
        """Forget everything and free the memory."""
        self.n_running = 0
        self._slots.clear()
        self.cache.drop()

    def forget(self, session: str) -> None:
        """Free a session's idle slot, if it has one."""
        for i in range(self.n_running, len(self._slots)):
            if self._slots[i].session == session:
                self._slots[i] = Slot()

    def n_held(self, session: str, adapter: str | None, ids: Sequence[int]) -> int:
        """Return how many tokens of ids need no forward pass: the last one does, for its logits."""
        i = self._find(session)
        if i is None or self._slots[i].adapter != adapter:
            return 0
        return min(common_prefix(self._slots[i].ids, ids), len(ids) - 1)

    def start(
        self, session: str, adapter: str | None, ids: Sequence[int], keep: Collection[str], spare: Collection[str]
    ) -> int:
        """Make slot n_running the session's; return how many of its tokens are in the cache.

        If an idle slot must be evicted, the sessions in `keep` go last, those in `spare` before them.
        """
        n_held = self.n_held(session, adapter, ids)
        i = self._find(session)
        if i is None:
            i = self._evict(keep, spare)
        self.cache.reserve(len(self._slots), len(ids), self.max_slots, self.max_positions)
        self._swap(i, self.n_running, max(len(self._slots[j].ids) for j in (i, self.n_running)))
        self._slots[self.n_running] = Slot(session, adapter, list(ids[:n_held]))
        self.n_running += 1
        return n_held

    def finish(self, i: int, ids: list[int], n_last: int) -> None:
        """Make slot i idle, holding ids; the last running slot, with its n_last positions, takes its place."""
        self._clock += 1
        self._slots[i].ids, self._slots[i].used = ids, self._clock
        self.n_running -= 1
        self._swap(i, self.n_running, max(len(ids), n_last))

    def _find(self, session: str) -> int | None:
        """Return the session's idle slot."""
        idle = range(self.n_running, len(self._slots))
        return next((i for i in idle if self._slots[i].session == session), None)

    def _evict(self, keep: Collection[str], spare: Collection[str]) -> int:
        """Return a free slot, else a new one, else the least recently used."""

        def order(i: int) -> tuple[bool, bool, int]:
            slot = self._slots[i]
            return slot.session in keep, slot.session in spare, slot.used

        i = min(range(self.n_running, len(self._slots)), key=order, default=None)
        if i is None or (self._slots[i].used >= 0 and len(self._slots) < self.max_slots):
            self._slots.append(Slot())
            return len(self._slots) - 1
        return i

    def _swap(self, i: int, j: int, n_positions: int) -> None:
        self.cache.swap(i, j, n_positions)
        self._slots[i], self._slots[j] = self._slots[j], self._slots[i]


def common_prefix(held: Sequence[int], wanted: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    n = min(len(held), len(wanted))
    if list(held[:n]) == list(wanted[:n]):
        return n
    return next(i for i in range(n) if held[i] != wanted[i])
