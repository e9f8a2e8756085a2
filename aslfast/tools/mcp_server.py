"""Tools of MCP servers (modelcontextprotocol.io), by the official client: a command that speaks over stdio, or a URL.

All sessions run in one background thread with an event loop of its own, so a rollout's loop may come and go. A server
has the user's rights and environment: name only what you trust. What its tools return is data, as all results are.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import os
import shlex
import tempfile
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TextIO, TypeVar, cast

from aslfast.errors import UserError
from aslfast.plugins import described
from aslfast.prompts.schemas import Schema
from aslfast.tools.arguments import typed
from aslfast.tools.protocol import ToolError, ToolFailed

try:
    import mcp
    from mcp.client.stdio import StdioServerParameters, stdio_client
except ModuleNotFoundError as missing:
    raise UserError(f"tools: no module {missing.name!r}; install the MCP client: pip install 'aslfast[mcp]'") from None

START_S = 30.0  # to start a server and to list its tools
CLOSE_S = 10.0
logging.getLogger("mcp").addHandler(logging.NullHandler())  # it prints a traceback of each line that is no message
MOST_PAGES = 100  # of a list of tools
LOST = (-32000, -32001)  # error codes of MCP: connection closed, request timed out

T = TypeVar("T")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return the loop of all sessions, in a thread that ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="aslfast-mcp").start()
    return loop


@dataclass(frozen=True, eq=False)
class McpTool:
    """One tool of a server."""

    name: str
    schema: Schema
    server: McpServer

    async def call(self, arguments: Mapping[str, object]) -> str:
        """Return the texts of the result. Raise ToolError for what the tool refuses, ToolFailed for a lost server."""
        asked = self.server.call(self.name, typed(arguments, self.schema))
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, _loop()))


class McpServer:
    """A session with a server, opened when first asked and again at the next call after it was lost."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._log = cast(TextIO, tempfile.TemporaryFile("w+", errors="replace"))  # noqa: SIM115  # of its errors
        self._opening = asyncio.Lock()
        self._client: Any = None
        self._closed = asyncio.Event()  # of the session at hand
        self._session: asyncio.Task[None] | None = None

    def tools(self) -> tuple[McpTool, ...]:
        """Return the server's tools. Raise UserError if it does not start or answer."""
        try:
            listed = _run(asyncio.wait_for(self._list(), START_S))
        except (TimeoutError, asyncio.TimeoutError):
            raise UserError(f"tools: mcp:{self.place} has not answered within {START_S:g} s{self._said()}") from None
        except Exception as error:
            raise UserError(f"tools: mcp:{self.place}: {described(_cause(error))}{self._said()}") from None
        if not listed:
            raise UserError(f"tools: mcp:{self.place} has no tools")
        return tuple(McpTool(tool.name, _schema(tool), self) for tool in listed)

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        """Return the texts of a result, in the loop of the sessions. Raise ToolError or ToolFailed."""
        client = None
        try:
            client = await self._opened()
            result = await client.call_tool(name, arguments)
        except Exception as error:
            if isinstance(error, mcp.MCPError) and error.code not in LOST:
                raise ToolError(error.message) from None
            self._drop(client)
            raise ToolFailed(f"mcp:{self.place}: {described(_cause(error))}") from None
        text = _text_of(result)
        if result.is_error:
            raise ToolError(text)
        return text

    def close(self) -> None:
        """End the session, and with it a server that was started for it."""
        with contextlib.suppress(Exception):
            _run(asyncio.wait_for(self._close(), CLOSE_S))

    async def _close(self) -> None:
        self._closed.set()
        if self._session:
            await self._session

    def _drop(self, client: Any) -> None:
        """Give a session up, unless another has taken its place."""
        if client is not None and self._client is client:
            self._client = None
            self._closed.set()

    async def _list(self) -> list[Any]:
        client, found, cursor = await self._opened(), [], None
        for _ in range(MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            found, cursor = [*found, *page.tools], page.next_cursor
            if cursor is None:
                break
        return found

    async def _opened(self) -> Any:
        async with self._opening:
            if self._client is None:
                ready = asyncio.get_running_loop().create_future()
                self._closed = asyncio.Event()
                self._session = asyncio.ensure_future(self._hold(ready, self._closed))
                try:
                    self._client = await ready
                except asyncio.CancelledError:  # too late: the server goes, too
                    self._session.cancel()
                    raise
            return self._client

    async def _hold(self, ready: asyncio.Future[Any], closed: asyncio.Event) -> None:
        """Hold a session open until it is closed; it must end in the task that opened it."""
        client = None
        try:
            async with mcp.Client(self._transport()) as client:
                ready.set_result(client)
                await closed.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)
        finally:
            self._drop(client)

    def _transport(self) -> Any:
        if self.place.startswith(("http://", "https://")):
            return self.place
        command, *words = shlex.split(self.place)
        return stdio_client(StdioServerParameters(command=command, args=words, env=dict(os.environ)), self._log)

    def _said(self) -> str:
        """Return the last line of a server's log, for an error."""
        self._log.seek(0)
        lines = self._log.read()[-4000:].strip().splitlines()
        return f"; it said: {' '.join(lines[-1].split())[:200]}" if lines else ""


@cache
def open_server(place: str) -> McpServer:
    """Return the session with the server at a command or URL, closed at the latest when the process ends."""
    server = McpServer(place)
    atexit.register(server.close)
    return server


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(coroutine, _loop()).result()


def _schema(tool: Any) -> Schema:
    parameters = {"properties": {}, **(tool.input_schema or {})}
    return {"name": tool.name, "description": tool.description or "", "parameters": parameters}


def _text_of(result: Any) -> str:
    """Return the texts of a result; what is none is named, a result of structure alone is JSON."""
    parts = [part.text if part.type == "text" else f"({part.type})" for part in result.content]
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts)


def _cause(error: BaseException) -> BaseException:
    """Return the first error of a group, which is what a task group makes of one."""
    while inner := getattr(error, "exceptions", None):
        error = inner[0]
    return error
