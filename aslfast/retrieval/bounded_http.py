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
    """Return a protocol class for uvicorn that keeps to the limits."""

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


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse every request: the application of a connection above the limit."""
    response = refusal(Refused(503, "too many open connections; close some or try again in a moment"))
    response.headers["connection"] = "close"
    await response(scope, receive, send)


def _cancelled(timer: TimerHandle | None) -> None:
    if timer:
        timer.cancel()
