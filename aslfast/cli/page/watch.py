"""The live page: a server on this machine alone that follows a run's folder and never writes to it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from aslfast.checkpoint.run_dir import CONFIG
from aslfast.cli.page.html import page
from aslfast.cli.page.run_data import RunData
from aslfast.errors import UserError

HOST = "127.0.0.1"
LINES = ("metrics.jsonl", "rounds.jsonl")  # of a commit the last to be written
REQUEST_TIMEOUT_S = 10.0


@dataclass
class FollowedRun:
    """A run that is read again when its lines have grown, at most once at a time."""

    run: Path
    _data: RunData = field(init=False)
    _version: str = ""
    _parts: list[bytes] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._data = RunData(self.run)

    def version(self) -> str:
        """Return a text that changes with every commit."""
        found = [(self.run / name).stat() for name in LINES if (self.run / name).exists()]
        return hashlib.sha256(repr([(each.st_size, each.st_mtime_ns) for each in found]).encode()).hexdigest()[:16]

    def table(self) -> tuple[bytes, str]:
        """Return the run's table and its version, brought up to date. Raise UserError."""
        with self._lock:
            version = self.version()
            if version != self._version:
                self._data.read()
                self._parts = [self._data.meta(), *self._data.all_chunks()]
                self._version = version
            return self._parts[0], version

    def chunk(self, number: int, version: str) -> bytes | None:
        """Return a chunk of texts of a table of this version; None: it is another one by now, or has no such chunk."""
        with self._lock:
            known = version == self._version and 0 < number < len(self._parts)
            return self._parts[number] if known else None


def serve(run: Path, port: int, opened: Callable[[str], None]) -> None:
    """Serve the live page of a run until the process is stopped. opened: called with its URL. Raise UserError."""
    followed = FollowedRun(run)
    if not (run / CONFIG).exists():
        raise UserError(f"{run}: no run there; name the folder of a run that has started")
    try:
        server = ThreadingHTTPServer((HOST, port), _handler(followed))
    except (OSError, OverflowError) as error:
        raise UserError(f"{HOST} port {port}: {error}; choose another --port (0 for a free one)") from error
    server.daemon_threads = True
    opened(f"http://{HOST}:{server.server_port}/")
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


def _handler(followed: FollowedRun) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S

        def do_GET(self) -> None:
            """Answer with the page, the run's version, or a part of its data."""
            if not self._is_ours():
                self._answer(403, "text/plain", b"this server answers on its own address alone")
            else:
                path, _, query = self.path.partition("?")
                self._route(path, query)

        def _route(self, path: str, query: str) -> None:
            number = path.removeprefix("/data/")
            if path == "/":
                self._answer(200, "text/html; charset=utf-8", "".join(page([], live=True)).encode())
            elif path == "/data/version":
                self._answer(200, "text/plain", followed.version().encode())
            elif path == "/data/0":
                self._table()
            elif path.startswith("/data/") and number.isdecimal() and len(number) < 8:
                part = followed.chunk(int(number), query.removeprefix("version="))
                self._answer(409 if part is None else 200, "application/octet-stream", part or b"another version now")
            else:
                self._answer(404, "text/plain", b"nothing here")

        def _table(self) -> None:
            try:
                packed, version = followed.table()
            except (UserError, OSError) as error:
                self._answer(503, "text/plain; charset=utf-8", str(error).encode())
            else:
                self._answer(200, "application/octet-stream", packed, version)

        def _is_ours(self) -> bool:
            """Return whether the request names this machine: a page elsewhere must not read the run by another name."""
            return re.sub(r":\d+$", "", self.headers.get("Host", "")).lower() in (HOST, "localhost")

        def _answer(self, status: int, kind: str, body: bytes, version: str = "") -> None:
            self.send_response(status)
            self.send_header("X-Run-Version", version)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of requests."""

    return Handler
