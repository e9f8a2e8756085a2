"""How many trajectories run at once, and which waiting one starts next."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PrioritySemaphore:
    """Lets at most `limit` holders run; of the waiting ones the deepest acquires first, then the oldest.

    Depth is how far down the dependency graph a trajectory is (question 0, attempt 1, verdict 2), so that started work
    is finished before more is started, and memory stays bounded. A parent must release before its children acquire: no
    holder waits for another permit, so there is no deadlock.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap

    @asynccontextmanager
    async def acquire(self, depth: int) -> AsyncIterator[None]:
        """Hold one permit for the length of the block."""
        await self._wait(depth)
        try:
            yield
        finally:
            self._release()

    async def _wait(self, depth: int) -> None:
        if self._free:
            self._free -= 1
            return
        permit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-depth, next(self._order), permit))
        try:
            await permit
        except asyncio.CancelledError:
            if permit.done() and not permit.cancelled():  # granted just before the cancellation: pass it on
                self._release()
            raise

    def _release(self) -> None:
        """Hand the permit to the next waiter directly, so that no newcomer takes it first."""
        while self._waiting:
            permit = heapq.heappop(self._waiting)[2]
            if not permit.done():
                permit.set_result(None)
                return
        self._free += 1
