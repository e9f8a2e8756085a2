"""`aslfast index serve`: the application on a port, with uvicorn, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import signal
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index
from aslfast.retrieval.app import Retrieval, refusal
from aslfast.retrieval.protocol import Limits, Refused

HEADER_BYTES = 64 * 2**10  # of one request; the parser itself has no limit
SPARE_CONNECTIONS = 128  # above the limit that still get a 503; those beyond are dropped
LINGER_S = 0.2  # after SIGTERM: for requests that clients had sent on open connections
log = logging.getLogger("aslfast.retrieval.app")


def serve(
    folder: Path, host: str, port: int, threads: int, access_log: bool, as_json: bool, limits: Limits | None = None
) -> None:
    """Serves the index until a signal. Raises UserError before the port is open."""
    limits = limits or Limits()
    index = BM25Index.open(folder)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    if access_log:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    with open_port(host, port) as listener:
        started = {"index": str(folder), "passages": len(index), "url": url_of(host, listener.getsockname()[1])}
        if not is_loopback(host):
            log.warning("%s is not a loopback address: whoever reaches the port can search the index", host)
        retrieval = Retrieval(index, limits, threads)
        server = Server(retrieval, access_log, lambda: announce(started, as_json))
        server.run([listener])
        retrieval.batcher.close()


def announce(started: dict[str, Any], as_json: bool) -> None:
    line = f"serving {started['index']} ({started['passages']:,} passages) at {started['url']}"
    print(json.dumps(started, ensure_ascii=False) if as_json else line, flush=True)


def open_port(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is a free one. Raises UserError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        # its own text repeats the address; where the host has none (errno below 0) it is all there is
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise UserError(f"{host} port {port}: {reason}; choose another --port (0 for a free one) or --host") from error
    except OverflowError as error:
        raise UserError(f"--port {port}: no such port; use 0 to 65535") from error


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server(uvicorn.Server):
    """Says when the port is open; on a signal finishes what is under way and returns."""

    def __init__(self, retrieval: Retrieval, access_log: bool, opened: Callable[[], None]) -> None:
        limits = retrieval.limits
        super().__init__(
            uvicorn.Config(
                retrieval.app(),
                http=protocol_with(limits),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=access_log,
                server_header=False,
                timeout_keep_alive=limits.idle_timeout_s,
                timeout_graceful_shutdown=limits.shutdown_timeout_s,
            )
        )
        self._retrieval = retrieval
        self._opened = opened

    def capture_signals(self) -> AbstractContextManager[None]:
        """uvicorn's own raises the signal again in the end, and the process would not exit with 0."""
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, sockets or [])
        self._opened()

    def _stop(self, sockets: list[socket.socket]) -> None:
        """Refuses new connections from here on; uvicorn itself looks at `should_exit` ten times a second."""
        self.force_exit = self.should_exit  # the second signal does not wait
        self.should_exit = True
        self._retrieval.closing = True
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.sleep(LINGER_S)
        await super().shutdown(sockets)


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    response = refusal(Refused(503, "too many open connections; close some or try again in a moment"))
    response.headers["connection"] = "close"
    await response(scope, receive, send)


def protocol_with(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with what it lacks: bounds on headers, on connections and on clients that do not read."""

    class BoundedProtocol(HttpToolsProtocol):
        _header_timer: TimerHandle | None = None
        _stalled_timer: TimerHandle | None = None
        _header_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections + SPARE_CONNECTIONS:
                transport.abort()
            elif len(self.connections) > limits.connections:
                self.app = _too_many
            self._await_headers()

        def data_received(self, data: bytes) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self._await_headers()
            if self._header_timer:
                self._header_bytes += len(data)
            super().data_received(data)
            if self._header_timer and self._header_bytes > HEADER_BYTES:
                self.transport.abort()

        def on_headers_complete(self) -> None:
            self._header_timer = _cancelled(self._header_timer)
            self._header_bytes = 0
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stalled_timer = self.loop.call_later(limits.stalled_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stalled_timer = _cancelled(self._stalled_timer)

        def connection_lost(self, exc: Exception | None) -> None:
            self._header_timer = _cancelled(self._header_timer)
            self._stalled_timer = _cancelled(self._stalled_timer)
            super().connection_lost(exc)

        def _await_headers(self) -> None:
            if self._header_timer is None:
                self._header_timer = self.loop.call_later(limits.header_timeout_s, self.transport.abort)

    return BoundedProtocol


def _cancelled(timer: TimerHandle | None) -> None:
    if timer:
        timer.cancel()
