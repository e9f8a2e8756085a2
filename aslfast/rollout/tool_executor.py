"""Runs the search tool for many trajectories: gathers calls into batches, in threads where a batch may block.

A call without an answer ends its own trajectory; a tool that has stopped answering ends the run.
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

from aslfast.clock import CLOCK
from aslfast.prompts.schemas import Schema
from aslfast.prompts.tool_calls import SEARCH, Call
from aslfast.retrieval.client import Unreachable
from aslfast.rollout.search_tool import Observation, SearchTool
from aslfast.rollout.tool_failures import ToolFailures

WORKERS = 8  # batches in flight; meanwhile, calls gather for the next ones
MAX_BATCH = 128  # calls: with three queries each, less than a server accepts by default in one request

Outcome = Sequence[Observation | None] | Exception


@dataclass(eq=False)
class _Batch:
    """Calls in flight and the futures of their observations. `timer` is cancelled when the batch is settled."""

    calls: Sequence[Call]
    observations: Sequence[asyncio.Future[Observation | None]]
    started: float
    timer: asyncio.TimerHandle | None = None
    settled: bool = False


@dataclass(eq=False)
class ToolExecutor:
    """Answers the calls that arrive in one iteration of the event loop as one batch.

    threaded false: the batch runs in the event loop itself, so that the order of everything, and with it every token,
    is reproducible; for a local index. threaded true: up to WORKERS batches run in threads, for an index that may block
    (a URL) or a sampler that samples elsewhere meanwhile.
    deadline_s: a batch without an answer by then has failed. give_up_after_s: of ToolFailures, of batches.
    """

    tool: SearchTool
    threaded: bool = False
    deadline_s: float = math.inf
    give_up_after_s: float = 60.0
    _waiting: deque[tuple[Call, asyncio.Future[Observation | None]]] = field(default_factory=deque, init=False)
    _in_flight: int = field(default=0, init=False)
    _failures: ToolFailures = field(init=False)

    def __post_init__(self) -> None:
        self._failures = ToolFailures("the search tool", "batches", self.give_up_after_s)

    @property
    def names(self) -> Sequence[str]:
        """The one tool."""
        return (SEARCH,)

    @property
    def schemas(self) -> Sequence[Schema]:
        """None: the prompts themselves tell of the search."""
        return ()

    async def call(self, call: Call) -> Observation | None:
        """Return the observation; None where the tool did not answer in time, which is not the caller's fault."""
        loop = asyncio.get_running_loop()
        observation: asyncio.Future[Observation | None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send)  # after the other callbacks of this iteration
        self._waiting.append((call, observation))
        return await observation

    def _send(self) -> None:
        while self._waiting and self._in_flight < WORKERS:
            taken = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            calls, observations = zip(*taken, strict=True)
            self._start(_Batch(calls, observations, time.monotonic()))

    def _start(self, batch: _Batch) -> None:
        self._in_flight += 1
        if not self.threaded:
            self._settle(batch, self._answer(batch))
            return
        loop = asyncio.get_running_loop()
        if math.isfinite(self.deadline_s):
            late = TimeoutError(f"no answer within {self.deadline_s:g} s")
            batch.timer = loop.call_later(self.deadline_s, self._settle, batch, late)
        # a thread per batch, not an executor's: a stuck one must neither occupy a worker nor delay the exit
        threading.Thread(target=self._work, args=(loop, batch), daemon=True, name="aslfast-tool").start()

    def _work(self, loop: asyncio.AbstractEventLoop, batch: _Batch) -> None:
        outcome = self._answer(batch)
        with contextlib.suppress(RuntimeError):  # the loop is already closed
            loop.call_soon_threadsafe(self._settle, batch, outcome)

    def _answer(self, batch: _Batch) -> Outcome:
        try:
            with CLOCK.part("tool"):
                return self.tool.answer(batch.calls)
        except Exception as error:
            return error

    def _settle(self, batch: _Batch, outcome: Outcome) -> None:
        """Hand a batch's outcome to its callers, once: an answer after the deadline is dropped."""
        if batch.settled:
            return
        batch.settled = True
        if batch.timer:
            batch.timer.cancel()
        self._in_flight -= 1
        outcome = self._check_failures(batch, outcome)
        for i, observation in enumerate(batch.observations):
            if observation.done():  # cancelled meanwhile
                continue
            if isinstance(outcome, Exception):
                observation.set_exception(outcome)
            else:
                observation.set_result(outcome[i])
        self._send()

    def _check_failures(self, batch: _Batch, outcome: Outcome) -> Outcome:
        """Return what the callers get: None each for a batch that failed, or the error of a tool that is gone."""
        if not isinstance(outcome, Unreachable | TimeoutError):
            self._failures.succeeded()
            return outcome
        return self._failures.failed(batch.started, outcome) or [None] * len(batch.calls)
