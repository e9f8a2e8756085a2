"""The retrieval server as an ASGI application: `POST /retrieve` and `GET /health`, as Search-R1's clients expect.

Search-R1: search_r1/search/retrieval_server.py (github.com/PeterGriffinJin/Search-R1). We differ in answering
`return_scores: false`, where it fails, and in limits: a request above one gets a status and `{"error": one line}`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TypeAlias

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from aslfast.index.bm25 import BM25Index
from aslfast.retrieval.batcher import Batcher, Found, Hit
from aslfast.retrieval.protocol import Refused, RetrieveRequest, ServerLimits, read_request

# A body above the limit is read and discarded up to here: a client that is still sending does not see the answer.
DISCARDED_BYTES = 64 * 2**20
RETRY_AFTER_S = 1
PUBLIC_LIMITS = (
    "queries",
    "query_chars",
    "topk",
    "hits",
    "body_bytes",
)  # /health reports them, so that clients can split
log = logging.getLogger("aslfast.retrieval.app")
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class Retrieval:
    """The state behind the two paths: the index, its batches, and the requests in progress."""

    def __init__(self, index: BM25Index, limits: ServerLimits, threads: int = 0) -> None:
        self.index = index
        self.limits = limits
        self.batcher = Batcher(index, threads=threads)
        self.closing = False  # then every answer closes its connection
        self._requests = 0
        self._hits = 0

    def app(self) -> ASGIApp:
        """Return the ASGI application."""
        retrieve, health = _Endpoint(self, self._retrieve), _Endpoint(self, self._health)
        routes = [Route(path, retrieve, methods=["POST"]) for path in ("/retrieve", "/retrieve/")]
        routes += [Route(path, health, methods=["GET"]) for path in ("/health", "/health/")]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _not_found})
        app.router.redirect_slashes = False
        return app

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request from its headers to its answer. Raises Refused above the limit."""
        if self._requests >= self.limits.requests:
            raise Refused(503, f"{self._requests} requests are in progress, the limit; try again in a moment")
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @contextmanager
    def _searching(self, request: RetrieveRequest) -> Iterator[None]:
        """Bound the memory of answers. A single request always fits."""
        if self._hits and self._hits + request.hits > self.limits.hits_in_progress:
            raise Refused(503, f"{self._hits} passages are being searched, near the limit; try again in a moment")
        self._hits += request.hits
        try:
            yield
        finally:
            self._hits -= request.hits

    async def _retrieve(self, request: Request) -> Response:
        asked = read_request(await read_body(request, self.limits), self.limits)
        with self._searching(asked):
            found = await self.batcher.search(asked.queries, asked.topk) if asked.queries else []
            return json_response(200, {"result": to_result(found, asked.return_scores)})

    async def _health(self, request: Request) -> Response:
        limits = {name: value for name, value in asdict(self.limits).items() if name in PUBLIC_LIMITS}
        state = {"passages": len(self.index), "generation": self.index.generation}
        return json_response(200, {"status": "closing" if self.closing else "ok", **state, "limits": limits})


class _Endpoint:
    """One path: admits the request, turns every failure into an answer of one line, and logs internal errors."""

    def __init__(self, retrieval: Retrieval, answer: Handler) -> None:
        self._retrieval = retrieval
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._retrieval.admitted():
                response = await self._answer(Request(scope, receive))
        except ClientDisconnect:
            return
        except Refused as refused:
            response = refusal(refused)
        except Exception as error:  # no request may end the server
            log.error("%s %s: %s: %s", scope["method"], scope["path"], type(error).__name__, _one_line(error))
            response = json_response(500, {"error": f"the search failed: {_one_line(error)}"})
        if self._retrieval.closing:
            response.headers["connection"] = "close"
        await response(scope, receive, send)


async def read_body(request: Request, limits: ServerLimits) -> bytes:
    """Return the body, counted as it arrives: Content-Length may be wrong. Raises Refused."""
    try:
        return await asyncio.wait_for(_read_body(request, limits.body_bytes), limits.body_timeout_s)
    except asyncio.TimeoutError:
        raise Refused(408, f"the body took longer than {limits.body_timeout_s:g} s, the limit; send it again") from None


async def _read_body(request: Request, max_bytes: int) -> bytes:
    too_large = Refused(
        413, f"the body is larger than {max_bytes} bytes, the limit; send the queries in several requests"
    )
    declared = request.headers.get("content-length", "")
    if "expect" in request.headers and declared.isdecimal() and int(declared) > max_bytes:
        raise too_large  # the client waits for an answer before it sends
    body = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= max_bytes:
            body += chunk
        elif size > DISCARDED_BYTES:
            break
    if size > max_bytes:
        raise too_large
    return bytes(body)


def to_result(found: Found, scores: bool) -> list[list[dict[str, object]]]:
    """Return the hits as Search-R1's clients expect them."""

    def entry(hit: Hit) -> dict[str, object]:
        document: dict[str, object] = {"id": hit.passage.id, "contents": hit.passage.contents}
        return {"document": document, "score": hit.score} if scores else document

    return [[entry(hit) for hit in row] for row in found]


def json_response(status: int, value: object) -> Response:
    """Return a response with a JSON body."""
    return Response(orjson.dumps(value), status, media_type="application/json")


def refusal(refused: Refused) -> Response:
    """Return the response to a refused request."""
    response = json_response(refused.status, {"error": str(refused)})
    if refused.status == 503:
        response.headers["retry-after"] = str(RETRY_AFTER_S)
    if refused.status in (408, 413):  # more of the body may still arrive
        response.headers["connection"] = "close"
    return response


async def _not_found(request: Request, error: Exception) -> Response:
    status, headers = getattr(error, "status_code", 500), getattr(error, "headers", None)
    what = f"{request.method[:20]} {request.url.path[:80]}"
    response = json_response(status, {"error": f"{what} is not served here; use POST /retrieve or GET /health"})
    response.headers.update(headers or {})
    return response


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
