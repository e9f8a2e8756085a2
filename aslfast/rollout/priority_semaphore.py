"""How many trajectories run at once, and which of those that wait starts next."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PrioritySemaphore:
    """Lets at most `limit` holders run; of those that wait, the deepest acquires first, then the oldest.

    Depth is how far down the graph a trajectory stands (question 0, attempt 1, verdict 2), so that what was begun is
    finished before more is begun, and memory stays bounded. A parent must release before its children acquire: no
    holder waits for another permit, and so there is no deadlock.
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
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-depth, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the permit came just before: pass it on
                self._release()
            raise

    def _release(self) -> None:
        """Hand the permit to the next waiter, so that no newcomer slips in between."""
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
