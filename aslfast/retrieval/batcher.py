"""Batch concurrent requests: one batch is searched at a time, on all cores, while the next one collects."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from aslfast.data.corpus import Passage
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index

BATCH_QUERIES = 1024  # over several requests; more would only make the first of them wait


class Hit(NamedTuple):
    """A passage and its score."""

    passage: Passage
    score: float


Found = list[list[Hit]]  # for each query, best first


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A request that waits for its answer."""

    queries: Sequence[str]
    k: int
    found: asyncio.Future[Found]


class Batcher:
    """The batches of one event loop. While none is searched, a request starts one; others wait for the next."""

    def __init__(self, index: BM25Index, *, threads: int = 0, batch_queries: int = BATCH_QUERIES) -> None:
        self._index = index
        self._threads = threads
        self._batch_queries = batch_queries
        self._waiting: deque[_Waiting] = deque()
        self._busy = False
        self._worker = ThreadPoolExecutor(1, "aslfast-search")

    async def search(self, queries: Sequence[str], k: int) -> Found:
        """Return the k best passages of each query. Raises what the index raises."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(queries, k, loop.create_future())
        self._waiting.append(waiting)
        loop.call_soon(self._start)  # after the other requests of this iteration of the loop
        return await waiting.found

    def close(self) -> None:
        """Wait for the batch in progress and end the worker thread."""
        self._worker.shutdown()

    def _start(self) -> None:
        if self._busy or not self._waiting:
            return
        self._busy = True
        batch = self._take()
        done = asyncio.get_running_loop().run_in_executor(self._worker, self._answers, batch)
        done.add_done_callback(lambda done: self._finish(batch, done))

    def _take(self) -> list[_Waiting]:
        batch = [self._waiting.popleft()]
        count = len(batch[0].queries)
        while self._waiting and count + len(self._waiting[0].queries) <= self._batch_queries:
            batch.append(self._waiting.popleft())
            count += len(batch[-1].queries)
        return batch

    def _finish(self, batch: list[_Waiting], done: asyncio.Future[list[Found | Exception]]) -> None:
        self._busy = False
        self._start()  # first, so that the cores stay busy while these answers are written
        error = done.exception()
        answers = [error] * len(batch) if error else done.result()
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.found.done():  # its client has disconnected
                continue
            if isinstance(answer, BaseException):
                waiting.found.set_exception(answer)
            else:
                waiting.found.set_result(answer)

    def _answers(self, batch: list[_Waiting]) -> list[Found | Exception]:
        """Search in the worker thread. If a batch fails, each request is searched alone: only the faulty one fails."""
        try:
            return list(self._search(batch))
        except (UserError, ValueError, OSError, MemoryError) as error:
            if len(batch) == 1:
                return [error]
            return [answer for waiting in batch for answer in self._answers([waiting])]

    def _search(self, batch: list[_Waiting]) -> list[Found]:
        """Search all queries with the largest k, then cut: ties are in corpus order, so the best k are the same."""
        queries = [query for waiting in batch for query in waiting.queries]
        found = self._index.search(queries, max(waiting.k for waiting in batch), threads=self._threads)
        depths = [waiting.k for waiting in batch for _ in waiting.queries]
        rows = [ids[:k] for ids, k in zip(found.ids, depths, strict=True)]
        unique = list(dict.fromkeys(id_ for row in rows for id_ in row))
        passages = dict(zip(unique, self._index.passages(unique), strict=True))
        hits = iter(
            [Hit(passages[id_], score) for id_, score in zip(row, scores, strict=False)]
            for row, scores in zip(rows, found.scores.tolist(), strict=True)
        )
        return [[next(hits) for _ in waiting.queries] for waiting in batch]
