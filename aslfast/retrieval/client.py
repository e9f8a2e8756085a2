"""An index behind a URL: `aslfast index serve`, Search-R1's retrieval server, or one that answers as they do."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from aslfast.data.corpus import Passage
from aslfast.errors import UserError
from aslfast.index.options import as_texts

RETRIEVE = "/retrieve"
FIRST_WAIT_S = 0.2  # before the second attempt; doubled before each next one
MAX_WAIT_S = 5.0  # whatever the server asks for


class Unreachable(UserError):
    """No answer in as many attempts as were allowed; another request may still get one."""


def longest_s(timeout_s: float, retries: int) -> float:
    """Seconds after which a request has certainly ended: every attempt's timeout and the longest waits between."""
    return (retries + 1) * timeout_s + retries * MAX_WAIT_S


@dataclass(frozen=True, slots=True)
class Splitting:
    """How much one request may ask for. The defaults are for servers that do not tell theirs (`/health`)."""

    queries: int = 512
    hits: int = 16_384  # queries x topk
    body_bytes: int = 2**20


class RemoteIndex:
    """Retrieves over HTTP, on connections that stay open. Thread-safe, and a forked process opens its own.

    An attempt ends after `timeout_s`. What may pass (no connection, a cut one, a 5xx status) is tried `retries` times
    more; a refusal (4xx) never is. Raises UserError that names the URL: Unreachable where all attempts were in vain.
    """

    def __init__(self, url: str, timeout_s: float = 30.0, retries: int = 5) -> None:
        self.url = _base(url)
        self._timeout_s = timeout_s
        self._retries = retries
        self._splitting = Splitting()
        self._client: httpx.Client | None = None
        self._pid = 0

    @classmethod
    def open(cls, url: str, timeout_s: float = 30.0, retries: int = 5) -> RemoteIndex:
        """Asks the server once, so that a wrong URL is an error before a run starts."""
        index = cls(url, timeout_s, retries)
        index.retrieve(["a first question"], 1)
        index._splitting = index._told()
        return index

    def retrieve(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """The k best passages of each query, best first."""
        batches = _batches(as_texts(queries, "queries"), k, self._splitting)
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
        """The answer's body, after as many attempts as it takes. Raises UserError."""
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
                    raise UserError(f"{self.url}{RETRIEVE}: refused with {problem}; check the URL and what is asked")
                wait_s = max(wait_s, _retry_after_s(headers))
            if attempt == self._retries:
                break
            time.sleep(min(wait_s, MAX_WAIT_S))
        raise Unreachable(
            f"{self.url}{RETRIEVE}: no answer in {self._retries + 1} attempts over {time.monotonic() - started:.1f} s "
            f"({problem}); start the server (aslfast index serve IDX) or name another index"
        )

    def _attempt(self, method: str, path: str, body: bytes = b"") -> tuple[int, httpx.Headers, bytes]:
        """One request, all of it within `timeout_s`: httpx itself bounds only the time between two reads."""
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
        if self._client is None or self._pid != os.getpid():
            # no proxy from the environment: one set for downloads would stand between a run and its own machine
            self._client = httpx.Client(timeout=self._timeout_s, trust_env=False)
            self._pid = os.getpid()
        return self._client

    def _told(self) -> Splitting:
        """What the server's /health tells; the defaults where it has none."""
        try:
            limits = orjson.loads(self._attempt("GET", "/health")[2])["limits"]
            told = Splitting(limits["queries"], limits["hits"], limits["body_bytes"])
        except (httpx.TransportError, httpx.DecodingError, ValueError, LookupError, TypeError):
            return Splitting()
        sound = all(type(n) is int and n > 0 for n in (told.queries, told.hits, told.body_bytes))
        return told if sound else Splitting()


def _base(url: str) -> str:
    """The URL without the path, which Search-R1's settings include. Raises UserError."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(f"{url}: not a URL ({error}); write it as http://host:port") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise UserError(f"{url}: not the URL of a server; write it as http://host:port")
    return url.rstrip("/").removesuffix(RETRIEVE)


def _batches(queries: Sequence[str], k: int, most: Splitting) -> Iterator[list[str]]:
    """The queries in order, in requests that the server takes; a query that is too large by itself goes alone."""
    batch: list[str] = []
    n_bytes = 0
    n_queries = max(1, min(most.queries, most.hits // max(k, 1)))
    for query in queries:
        size = len(orjson.dumps(query)) + 1
        # half, for the other fields
        if batch and (len(batch) == n_queries or n_bytes + size > most.body_bytes // 2):
            yield batch
            batch, n_bytes = [], 0
        batch.append(query)
        n_bytes += size
    if batch:
        yield batch


def _rows(answer: Any, count: int, k: int) -> list[list[Passage]]:
    """Raises ValueError that says what is wrong."""
    rows = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError("no list of lists in its field 'result'")
    if len(rows) != count:
        raise ValueError(f"{len(rows)} results for {count} queries")
    return [[_passage(hit) for hit in row[:k]] for row in rows]


def _passage(hit: Any) -> Passage:
    """From {"document": {...}, "score": s} or the document itself; its id may be a number or missing."""
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
    """The error that the server wrote: ours in "error", FastAPI's in "detail"."""
    try:
        told = orjson.loads(answer)
        text = str(told.get("error") or told["detail"])
    except (ValueError, LookupError, AttributeError):
        text = answer[:200].decode("utf-8", "replace")
    return " ".join(text.split())[:300] or "no message"


def _retry_after_s(headers: httpx.Headers) -> float:
    """0 where it is missing or a date."""
    text = headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0
