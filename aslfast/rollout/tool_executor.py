"""The search tool for many trajectories at once: calls gathered into batches, off the event loop where they may wait.

A call that gets no answer costs its own trajectory; a tool that answers nobody any more stops the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from aslfast.errors import UserError
from aslfast.prompts.role_tasks import Call
from aslfast.retrieval.client import Unreachable
from aslfast.rollout.search_tool import SearchTool

WORKERS = 8  # batches under way; while all are, calls gather for the next ones
MAX_BATCH = 128  # calls: with three queries each, less than a server takes by default in one request
FAILURES_IN_A_ROW = 3  # batches; fewer may be the queries' own fault

Outcome = Sequence[str | None] | Exception


@dataclass(eq=False)
class _Batch:
    """Calls on their way, and where their observations are awaited. `timer` goes when the batch is settled."""

    waiting: Sequence[tuple[Call, asyncio.Future[str | None]]]
    started: float
    timer: asyncio.TimerHandle | None = None
    settled: bool = False

    @property
    def calls(self) -> list[Call]:
        return [call for call, _ in self.waiting]


@dataclass(eq=False)
class ToolExecutor:
    """Answers the calls that arrive in one turn of the event loop as one batch.

    threaded false: the batch runs in the loop itself, so that the order of everything, and with it every token, is
    reproducible; for an index in a folder. threaded true: up to WORKERS batches run in threads of their own, for an
    index that may wait (a URL) or a sampler that samples elsewhere meanwhile.
    deadline_s: a batch without an answer by then has failed. gone_after_s: once batches have done nothing but fail
    for so long, and at least three of them, every call raises UserError.
    """

    tool: SearchTool
    threaded: bool = False
    deadline_s: float = math.inf
    give_up_after_s: float = 60.0
    _waiting: deque[tuple[Call, asyncio.Future[str | None]]] = field(default_factory=deque)
    _under_way: int = 0
    _failures: int = 0  # batches since the last that succeeded
    _failing_since: float = 0.0

    async def call(self, call: Call) -> str | None:
        """The observation; None where the tool did not answer in time: nobody's fault who made the call."""
        loop = asyncio.get_running_loop()
        observation: asyncio.Future[str | None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send)  # after whoever else this turn of the loop wakes
        self._waiting.append((call, observation))
        return await observation

    def _send(self) -> None:
        while self._waiting and self._under_way < WORKERS:
            taken = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            self._start(_Batch(taken, time.monotonic()))

    def _start(self, batch: _Batch) -> None:
        self._under_way += 1
        if not self.threaded:
            self._settle(batch, self._answer(batch))
            return
        loop = asyncio.get_running_loop()
        if math.isfinite(self.deadline_s):
            late = TimeoutError(f"no answer within {self.deadline_s:g} s")
            batch.timer = loop.call_later(self.deadline_s, self._settle, batch, late)
        # a thread a batch, not an executor's: a stuck one must neither take a worker's place nor hold up the exit
        threading.Thread(target=self._work, args=(loop, batch), daemon=True, name="aslfast-tool").start()

    def _work(self, loop: asyncio.AbstractEventLoop, batch: _Batch) -> None:
        outcome = self._answer(batch)
        with contextlib.suppress(RuntimeError):  # the loop has ended without us
            loop.call_soon_threadsafe(self._settle, batch, outcome)

    def _answer(self, batch: _Batch) -> Outcome:
        try:
            return self.tool.answer(batch.calls)
        except Exception as error:
            return error

    def _settle(self, batch: _Batch, outcome: Outcome) -> None:
        """Hands a batch's outcome to its callers, once: an answer after the deadline is dropped."""
        if batch.settled:
            return
        batch.settled = True
        if batch.timer:
            batch.timer.cancel()
        self._under_way -= 1
        outcome = self._judged(batch, outcome)
        for i, (_, observation) in enumerate(batch.waiting):
            if observation.done():  # cancelled meanwhile
                continue
            if isinstance(outcome, Exception):
                observation.set_exception(outcome)
            else:
                observation.set_result(outcome[i])
        self._send()

    def _judged(self, batch: _Batch, outcome: Outcome) -> Outcome:
        """What the callers get: a batch that failed by waiting in vain gives None, unless the tool is gone."""
        if not isinstance(outcome, Unreachable | TimeoutError):
            self._failures = 0
            return outcome
        if self._failures == 0:
            self._failing_since = batch.started
        self._failures += 1
        failing_s = time.monotonic() - self._failing_since
        if self._failures < FAILURES_IN_A_ROW or failing_s < self.give_up_after_s:
            return [None] * len(batch.waiting)
        return UserError(
            f"the search tool has answered no call for {failing_s:.0f} s ({self._failures} batches failed in a row, "
            f"the last one with: {outcome})"
        )
