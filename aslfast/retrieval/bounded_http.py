"""uvicorn's HTTP protocol with the bounds that it lacks: on headers, connections, and clients that do not read."""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aslfast.retrieval.app import refusal
from aslfast.retrieval.protocol import Refused, ServerLimits

HEADER_BYTES = 64 * 2**10  # of one request; the parser itself has no limit
SPARE_CONNECTIONS = 128  # above the limit that still get a 503; those beyond are dropped


def protocol_with(limits: ServerLimits) -> type[HttpToolsProtocol]:
    """Return a protocol class for uvicorn that enforces these limits."""
    return type("LimitedProtocol", (BoundedProtocol,), {"limits": limits})


class BoundedProtocol(HttpToolsProtocol):
    """One connection: too many, too slow or too large a header, or a stalled reader end it."""

    limits = ServerLimits()
    _header_timer: TimerHandle | None = None
    _stalled_timer: TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse what is above the limit; otherwise start to wait for the headers."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections + SPARE_CONNECTIONS:
            transport.abort()
        elif len(self.connections) > self.limits.connections:
            self.app = _too_many
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a header, which has to end within its limit."""
        if self.cycle is None or self.cycle.response_complete:
            self._await_headers()
        if self._header_timer:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._header_timer and self._header_bytes > HEADER_BYTES:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        """Stop waiting for the headers."""
        self._header_timer = _cancelled(self._header_timer)
        self._header_bytes = 0
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Start to wait for a client that does not read its answer."""
        super().pause_writing()
        self._stalled_timer = self.loop.call_later(self.limits.stalled_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting: the client reads again."""
        super().resume_writing()
        self._stalled_timer = _cancelled(self._stalled_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._header_timer = _cancelled(self._header_timer)
        self._stalled_timer = _cancelled(self._stalled_timer)
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.limits.header_timeout_s, self.transport.abort)


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse every request: the application of a connection above the limit."""
    response = refusal(Refused(503, "too many open connections; close some or try again in a moment"))
    response.headers["connection"] = "close"
    await response(scope, receive, send)


def _cancelled(timer: TimerHandle | None) -> None:
    if timer:
        timer.cancel()
