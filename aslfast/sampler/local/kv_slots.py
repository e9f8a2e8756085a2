"""The table of whose keys and values lie in which slot of the cache, and which slots begin with the same tokens."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aslfast.sampler.local.kv_cache import KVCache
from aslfast.sampler.prefix_index import PrefixIndex


@dataclass(eq=False)
class Slot:
    """One slot and what it holds. session: None once it is released; used: when its last request ended."""

    key: int  # of the slot's content, wherever it is moved to
    session: str | None = None
    adapter: str | None = None
    n_tokens: int = 0  # whose keys and values the slot holds
    used: int = -1


class SlotTable:
    """The slots of a cache: [0, n_running) hold running requests, in the caller's order; the rest are idle or released.

    Running slots are kept together by exchanging two slots when a request starts or ends, so that each step reads a
    slice. A request that begins with the tokens of any slot of its adapter, running, idle or released, gets a copy of
    their keys and values: copying a token costs a hundredth of computing it. The slots are as many as requests ran at
    once, so the cache takes no more memory for it.
    """

    def __init__(self, cache: KVCache, max_slots: int, max_positions: int, reuse: bool = True) -> None:
        """reuse: false computes every context anew, also a session's own."""
        self.cache, self.max_slots, self.max_positions, self.reuse = cache, max_slots, max_positions, reuse
        self._keys = itertools.count()
        self._clock = 0
        self._forget_all()

    def _forget_all(self) -> None:
        self.n_running = 0
        self._slots: list[Slot] = []
        # by adapter: the tokens that its slots hold, by the slot's key
        self._contents: defaultdict[str | None, PrefixIndex[int]] = defaultdict(PrefixIndex)

    def drop(self) -> None:
        """Forget everything and free the memory."""
        self._forget_all()
        self.cache.drop()

    def forget(self, session: str) -> None:
        """Release a session's idle slot, if it has one: its content stays until the slot is needed."""
        i = self._find(session)
        if i is not None:
            self._slots[i].session = None

    def n_held(self, session: str, adapter: str | None, ids: Sequence[int]) -> int:
        """Return how many tokens of ids need no forward pass: the last one does, for its logits."""
        n_own = self._n_own(self._find(session), adapter, ids)
        return min(max(n_own, self._contents[adapter].longest(ids)[0]), len(ids) - 1)

    def start(
        self, session: str, adapter: str | None, ids: Sequence[int], keep: Collection[str], spare: Collection[str]
    ) -> int:
        """Make slot n_running the session's; return how many of its tokens are in the cache.

        If an idle slot must be evicted, the sessions in `keep` go last, those in `spare` before them.
        """
        n_shared, source = self._contents[adapter].longest(ids)
        i = self._find(session)
        n_own = self._n_own(i, adapter, ids)
        if i is None:
            i = self._evict(keep, spare)
        self.cache.reserve(len(self._slots), len(ids), self.max_slots, self.max_positions)
        self._swap(i, self.n_running, max(self._slots[j].n_tokens for j in (i, self.n_running)))
        slot = self._slots[self.n_running]
        if source is not None and n_shared > n_own:
            self.cache.copy(self._position(source), self.n_running, n_own, n_shared)
        n_held = min(max(n_own, n_shared), len(ids) - 1)
        self._contents[slot.adapter].remove(slot.key)
        slot.session, slot.adapter, slot.n_tokens = session, adapter, n_held
        self.n_running += 1
        return n_held

    def fork(self, i: int, session: str, n_tokens: int, spare: Collection[str]) -> None:
        """Make slot n_running the session's, with the first n_tokens of the running slot i.

        Of idle slots that must be evicted, those of the sessions in `spare` go last.
        """
        found = self._find(session)
        target = self._evict((), spare) if found is None else found
        self.cache.reserve(len(self._slots), n_tokens + 1, self.max_slots, self.max_positions)
        self._swap(target, self.n_running, max(self._slots[j].n_tokens for j in (target, self.n_running)))
        self.cache.copy(i, self.n_running, 0, n_tokens)
        slot = self._slots[self.n_running]
        self._contents[slot.adapter].remove(slot.key)
        slot.session, slot.adapter, slot.n_tokens = session, self._slots[i].adapter, n_tokens
        self.n_running += 1

    def hand_over(self, i: int, session: str) -> None:
        """Keep the running slot i for another session."""
        self._slots[i].session = session

    def hold(self, i: int, ids: Sequence[int]) -> None:
        """Note that slot i holds ids by now: others may begin with them."""
        slot = self._slots[i]
        slot.n_tokens = len(ids)
        if self.reuse:
            self._contents[slot.adapter].put(slot.key, ids)

    def finish(self, i: int, ids: Sequence[int], n_last: int) -> None:
        """Make slot i idle, holding ids; the last running slot, with its n_last positions, takes its place."""
        self._clock += 1
        self.hold(i, ids)
        self._slots[i].used = self._clock
        self.n_running -= 1
        self._swap(i, self.n_running, max(len(ids), n_last))

    def _n_own(self, i: int | None, adapter: str | None, ids: Sequence[int]) -> int:
        """Return how many tokens of ids slot i begins with."""
        if i is None or self._slots[i].adapter != adapter:
            return 0
        return self._contents[adapter].own(self._slots[i].key, ids)

    def _find(self, session: str) -> int | None:
        """Return the session's idle slot."""
        idle = range(self.n_running, len(self._slots))
        return next((i for i in idle if self._slots[i].session == session), None)

    def _position(self, key: int) -> int:
        return next(i for i, slot in enumerate(self._slots) if slot.key == key)

    def _evict(self, keep: Collection[str], spare: Collection[str]) -> int:
        """Return the released slot that was used least recently, else a new one, else an idle one."""

        def order(i: int) -> tuple[bool, bool, bool, int]:
            slot = self._slots[i]
            return slot.session in keep, slot.session in spare, slot.session is not None, slot.used

        i = min(range(self.n_running, len(self._slots)), key=order, default=None)
        if i is None or (self._slots[i].session is not None and len(self._slots) < self.max_slots):
            self._slots.append(Slot(next(self._keys)))
            return len(self._slots) - 1
        return i

    def _swap(self, i: int, j: int, n_positions: int) -> None:
        self.cache.swap(i, j, n_positions)
        self._slots[i], self._slots[j] = self._slots[j], self._slots[i]
