"""How many trajectories are under way at once, and who goes first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PrioritySemaphore:
    """At most `at_once` inside; of those that wait, the one of the greatest depth enters first, then the oldest.

    Depth is how far down the graph a trajectory stands (question 0, attempt 1, verdict 2), so that what was begun is
    finished before more is begun, and memory stays bounded. A parent must leave before its children enter: nobody
    holds a place while waiting for one, and so there is no deadlock.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap

    @asynccontextmanager
    async def inside(self, depth: int) -> AsyncIterator[None]:
        await self._enter(depth)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, depth: int) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-depth, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place was given just before: pass it on
                self._leave()
            raise

    def _leave(self) -> None:
        """Hands the place to whoever is next, so that nobody slips in between."""
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
