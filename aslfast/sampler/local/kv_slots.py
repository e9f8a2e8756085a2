"""Which session's keys and values stand in which row of the cache."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from aslfast.sampler.local.kv_cache import KVCache


@dataclass(eq=False)
class Slot:
    """One row and what it holds. used: when it was last finished with; -1: nobody's."""

    session: str | None = None
    adapter: str | None = None
    ids: list[int] = field(default_factory=list)  # the tokens whose keys and values the row holds
    used: int = -1


class Rows:
    """Rows [0, n_active) are under way, in the caller's order; the rest are idle sessions or free.

    Rows under way are kept together by exchanging two rows when one starts or ends, so that each step reads a slice.
    """

    def __init__(self, cache: KVCache, max_running_requests: int, max_columns: int) -> None:
        self.cache, self.max_running_requests, self.max_columns = cache, max_running_requests, max_columns
        self.n_active = 0
        self._slots: list[Slot] = []
        self._clock = 0

    def drop(self) -> None:
        """Forget everything and free the memory."""
        self.n_active = 0
        self._slots.clear()
        self.cache.drop()

    def forget(self, session: str) -> None:
        """Free a session's idle row, if it has one."""
        for row in range(self.n_active, len(self._slots)):
            if self._slots[row].session == session:
                self._slots[row] = Slot()

    def held(self, session: str, adapter: str | None, ids: Sequence[int]) -> int:
        """How many tokens of ids need no forward pass: the last one does, for its logits."""
        row = self._find(session)
        if row is None or self._slots[row].adapter != adapter:
            return 0
        return min(common_prefix(self._slots[row].ids, ids), len(ids) - 1)

    def start(
        self, session: str, adapter: str | None, ids: Sequence[int], keep: Collection[str], spare: Collection[str]
    ) -> int:
        """Put a session under way in row n_active; return how many of its tokens are in the cache.

        If a row must be cleared, the sessions in `keep` go last, those in `spare` before them.
        """
        n_held = self.held(session, adapter, ids)
        row = self._find(session)
        if row is None:
            row = self._clear_one(keep, spare)
        self.cache.reserve(len(self._slots), len(ids), self.max_running_requests, self.max_columns)
        self._swap(row, self.n_active, max(len(self._slots[i].ids) for i in (row, self.n_active)))
        self._slots[self.n_active] = Slot(session, adapter, list(ids[:n_held]))
        self.n_active += 1
        return n_held

    def finish(self, row: int, ids: list[int], n_last: int) -> None:
        """Make a row idle, holding ids; the last row under way, with its n_last columns, takes its place."""
        self._clock += 1
        self._slots[row].ids, self._slots[row].used = ids, self._clock
        self.n_active -= 1
        self._swap(row, self.n_active, max(len(ids), n_last))

    def _find(self, session: str) -> int | None:
        idle = range(self.n_active, len(self._slots))
        return next((row for row in idle if self._slots[row].session == session), None)

    def _clear_one(self, keep: Collection[str], spare: Collection[str]) -> int:
        """A free row, else a new one, else the one least recently used."""

        def wanted(row: int) -> tuple[bool, bool, int]:
            slot = self._slots[row]
            return slot.session in keep, slot.session in spare, slot.used

        row = min(range(self.n_active, len(self._slots)), key=wanted, default=None)
        if row is None or (self._slots[row].used >= 0 and len(self._slots) < self.max_running_requests):
            self._slots.append(Slot())
            return len(self._slots) - 1
        return row

    def _swap(self, row: int, other: int, n_columns: int) -> None:
        self.cache.swap(row, other, n_columns)
        self._slots[row], self._slots[other] = self._slots[other], self._slots[row]


def common_prefix(held: Sequence[int], wanted: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    n = min(len(held), len(wanted))
    if list(held[:n]) == list(wanted[:n]):
        return n
    return next(i for i in range(n) if held[i] != wanted[i])
