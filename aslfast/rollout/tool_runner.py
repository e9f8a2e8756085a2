"""Runs one tool besides the search: with a timeout, a limit on its calls at once and one on what it returns."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Awaitable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from types import coroutine
from typing import Any

from aslfast.clock import CLOCK
from aslfast.plugins import time_limit
from aslfast.rollout.priority_semaphore import PrioritySemaphore
from aslfast.rollout.tool_failures import ToolFailures
from aslfast.tools.protocol import Tool, ToolError, ToolFailed
from aslfast.tools.results import as_text, cut, error_text


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Bounds of the calls of one tool; give_up_after_s: of ToolFailures."""

    timeout_s: float = 30.0
    max_concurrent: int = 32
    max_result_chars: int = 8000
    give_up_after_s: float = 60.0


@dataclass(eq=False)
class ToolRunner:
    """Answers calls of one tool with texts.

    threaded false: a plain function runs in the event loop itself, so that the order of everything is reproducible.
    threaded true: in a thread of its own, which is abandoned if it does not end in time. What is async is awaited in
    the loop. A call without an answer in time has failed; what a tool raises is its answer, "error: ...".
    """

    tool: Tool
    threaded: bool
    limits: CallLimits
    _permits: PrioritySemaphore = field(init=False)
    _failures: ToolFailures = field(init=False)

    def __post_init__(self) -> None:
        self._permits = PrioritySemaphore(self.limits.max_concurrent)
        self._failures = ToolFailures(f"the tool {self.tool.name!r}", "calls", self.limits.give_up_after_s)

    async def call(self, arguments: Mapping[str, object]) -> str | None:
        """Return the answer; None where the tool gave none. Raise UserError once it is gone."""
        async with self._permits.acquire(0):
            started = time.monotonic()
            try:
                answer = as_text(await self._result(arguments))
            except (TimeoutError, asyncio.TimeoutError, ToolFailed) as error:
                if gone := self._failures.failed(started, error):
                    raise gone from None
                return None
            except ToolError as error:
                answer = f"error: {error}"
            except Exception as error:
                answer = f"error: {error_text(error)}"
        self._failures.succeeded()
        return cut(answer, self.limits.max_result_chars)

    async def _result(self, arguments: Mapping[str, object]) -> object:
        result = await self._in_thread(arguments) if self.threaded else self._in_loop(arguments)
        if not inspect.isawaitable(result):
            return result
        return await self._in_time(asyncio.ensure_future(_awaited(result, self.limits.timeout_s)))

    def _in_loop(self, arguments: Mapping[str, object]) -> object:
        with CLOCK.part("tool"), _bounded(self.limits.timeout_s):
            return self.tool.call(arguments)

    async def _in_thread(self, arguments: Mapping[str, object]) -> object:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[object] = loop.create_future()

        def settle(result: object, error: Exception | None) -> None:
            if answered.done():  # too late
                return
            answered.set_exception(error) if error else answered.set_result(result)

        def work() -> None:
            result, failure = None, None
            try:
                with CLOCK.part("tool"), _no_exit():
                    result = self.tool.call(arguments)
            except Exception as error:
                failure = RuntimeError(error) if isinstance(error, StopIteration) else error  # no future takes that
            with contextlib.suppress(RuntimeError):  # the loop is already closed
                loop.call_soon_threadsafe(settle, result, failure)

        # a thread a call, as for the search: a stuck one must neither occupy a worker nor delay the exit
        threading.Thread(target=work, daemon=True, name="aslfast-tool").start()
        return await self._in_time(answered)

    async def _in_time(self, result: asyncio.Future[Any]) -> object:
        """Return a result that comes in time; one that does not is given up, even if it refuses to be cancelled."""
        try:
            await asyncio.wait({result}, timeout=self.limits.timeout_s)
            if not result.done():
                raise TimeoutError(f"no result within {self.limits.timeout_s:g} s")
            return result.result()
        finally:
            result.cancel()


async def _awaited(result: Awaitable[object], step_s: float) -> object:
    return await _steps(result, step_s)


@coroutine
def _steps(result: Awaitable[Any], step_s: float) -> Generator[Any, Any, object]:
    """Await a result, each step between two waits within so many seconds: an async function may block, too."""
    steps = result.__await__()
    resume, value = next, None
    while True:
        try:
            with _bounded(step_s):
                waiting = resume(steps) if value is None else steps.throw(value)
        except StopIteration as done:
            return done.value
        value = None
        try:
            yield waiting
        except BaseException as error:
            value = error


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    with time_limit(seconds), _no_exit():
        yield


@contextlib.contextmanager
def _no_exit() -> Iterator[None]:
    """Raise what would end the process as an error of the tool."""
    try:
        yield
    except SystemExit as error:
        raise ToolError(f"the tool tried to end the process (exit code {error.code})") from None
