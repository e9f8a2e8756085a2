"""An index behind a URL: `aslfast index serve`, Search-R1's retrieval server, or one with the same protocol."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
import orjson

from aslfast.data.corpus import Passage
from aslfast.errors import UserError
from aslfast.index.options import as_texts

RETRIEVE = "/retrieve"
FIRST_WAIT_S = 0.2  # before the second attempt; doubled before each next one
MAX_WAIT_S = 5.0  # even if the server asks for more


class Unreachable(UserError):
    """No answer within the allowed attempts; another request may still get one."""


def max_request_s(timeout_s: float, retries: int) -> float:
    """Return the most seconds that a request can take: every attempt's timeout and the longest waits between them."""
    return (retries + 1) * timeout_s + retries * MAX_WAIT_S


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How much one request may ask for. The defaults are for servers that do not report theirs in `/health`."""

    queries: int = 512
    hits: int = 16_384  # queries x topk
    body_bytes: int = 2**20


class RemoteIndex:
    """A client that retrieves over HTTP, on kept-alive connections. Thread-safe; a forked process opens its own.

    An attempt ends after `timeout_s`. A transient failure (no connection, a broken one, a 5xx status) is retried up to
    `retries` times; a refusal (4xx) never is. Raises UserError that names the URL: Unreachable if all attempts fail.
    """

    def __init__(self, url: str, timeout_s: float = 30.0, retries: int = 5) -> None:
        self.url = _base(url)
        self._timeout_s = timeout_s
        self._retries = retries
        self._limits = RequestLimits()
        self._client: httpx.Client | None = None
        self._pid = 0

    @classmethod
    def open(cls, url: str, timeout_s: float = 30.0, retries: int = 5) -> RemoteIndex:
        """Query the server once, so that a wrong URL is an error before a run starts."""
        index = cls(url, timeout_s, retries)
        index.retrieve(["a first question"], 1)
        index._limits = index._server_limits()
        return index

    def retrieve(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return the k best passages of each query, best first. Raises UserError."""
        batches = _batches(as_texts(queries, "queries"), k, self._limits)
        return [row for batch in batches for row in self._retrieve(batch, k)]

    def _retrieve(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        body = self._post(orjson.dumps({"queries": queries, "topk": k, "return_scores": True}))
        try:
            return _rows(orjson.loads(body), len(queries), k)
        except ValueError as error:
            raise UserError(
                f"{self.url}{RETRIEVE}: not the answer of a retrieval server ({error}); check the URL"
            ) from error

    def _post(self, body: bytes) -> bytes:
        """Send one request, with retries; return the answer's body. Raises UserError."""
        started = time.monotonic()
        for attempt in itertools.count():
            wait_s = FIRST_WAIT_S * 2**attempt
            try:
                status, headers, answer = self._attempt("POST", RETRIEVE, body)
            except (httpx.TransportError, httpx.DecodingError) as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if status == 200:
                    return answer
                problem = f"status {status}: {_message(answer)}"
                if status < 500:
                    raise UserError(f"{self.url}{RETRIEVE}: refused with {problem}; check the URL and the request")
                wait_s = max(wait_s, _retry_after_s(headers))
            if attempt == self._retries:
                break
            time.sleep(min(wait_s, MAX_WAIT_S))
        raise Unreachable(
            f"{self.url}{RETRIEVE}: no answer in {self._retries + 1} attempts over {time.monotonic() - started:.1f} s "
            f"({problem}); start the server (aslfast index serve IDX) or name another index"
        )

    def _attempt(self, method: str, path: str, body: bytes = b"") -> tuple[int, httpx.Headers, bytes]:
        """Send one request, all of it within `timeout_s`: httpx itself only bounds the time between two reads."""
        deadline = time.monotonic() + self._timeout_s
        headers = {"content-type": "application/json"}
        with self._connected().stream(method, f"{self.url}{path}", content=body, headers=headers) as response:
            answer = bytearray()
            for chunk in response.iter_bytes():
                answer += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"the answer took longer than {self._timeout_s:g} s")
            return response.status_code, response.headers, bytes(answer)

    def _connected(self) -> httpx.Client:
        """Return this process's client."""
        if self._client is None or self._pid != os.getpid():
            # no proxy from the environment: one set for downloads must not come between a run and its own machine
            self._client = httpx.Client(timeout=self._timeout_s, trust_env=False)
            self._pid = os.getpid()
        return self._client

    def _server_limits(self) -> RequestLimits:
        """Return what the server's /health reports; the defaults where it reports nothing sound."""
        try:
            limits = orjson.loads(self._attempt("GET", "/health")[2])["limits"]
            reported = RequestLimits(limits["queries"], limits["hits"], limits["body_bytes"])
        except (httpx.TransportError, httpx.DecodingError, ValueError, LookupError, TypeError):
            return RequestLimits()
        sound = all(type(n) is int and n > 0 for n in (reported.queries, reported.hits, reported.body_bytes))
        return reported if sound else RequestLimits()


def _base(url: str) -> str:
    """Return the URL without the path, which Search-R1's settings include. Raises UserError."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(f"{url}: not a URL ({error}); write it as http://host:port") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise UserError(f"{url}: not the URL of a server; write it as http://host:port")
    return url.rstrip("/").removesuffix(RETRIEVE)


def _batches(queries: Sequence[str], k: int, limits: RequestLimits) -> Iterator[list[str]]:
    """Split the queries, in order, into requests within the limits; a query that is too large by itself goes alone."""
    batch: list[str] = []
    n_bytes = 0
    n_queries = max(1, min(limits.queries, limits.hits // max(k, 1)))
    for query in queries:
        size = len(orjson.dumps(query)) + 1
        # half of it: the other fields need room too
        if batch and (len(batch) == n_queries or n_bytes + size > limits.body_bytes // 2):
            yield batch
            batch, n_bytes = [], 0
        batch.append(query)
        n_bytes += size
    if batch:
        yield batch


def _rows(answer: object, count: int, k: int) -> list[list[Passage]]:
    """Return the passages of each query. Raises ValueError that says what is wrong."""
    rows = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError("no list of lists in its field 'result'")
    if len(rows) != count:
        raise ValueError(f"{len(rows)} results for {count} queries")
    return [[_passage(hit) for hit in row[:k]] for row in rows]


def _passage(hit: object) -> Passage:
    """Return the passage of {"document": {...}, "score": s} or of the document itself, whose id may be missing."""
    document = hit.get("document", hit) if isinstance(hit, dict) else None
    if not isinstance(document, dict):
        raise ValueError(f"a hit that is no object: {hit!r:.60}")
    contents = document.get("contents")
    if contents is None and isinstance(document.get("text"), str):
        contents = f'"{document.get("title", "")}"\n{document["text"]}'
    if not isinstance(contents, str):
        raise ValueError("a document without the field 'contents'")
    return Passage(str(document.get("id", "")), contents)


def _message(answer: bytes) -> str:
    """Return the error that the server wrote: ours in "error", FastAPI's in "detail"."""
    try:
        fields = orjson.loads(answer)
        text = str(fields.get("error") or fields["detail"])
    except (ValueError, LookupError, AttributeError):
        text = answer[:200].decode("utf-8", "replace")
    return " ".join(text.split())[:300] or "no message"


def _retry_after_s(headers: httpx.Headers) -> float:
    """Return the Retry-After header in seconds; 0 where it is missing or a date."""
    text = headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0
