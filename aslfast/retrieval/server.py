"""`aslfast index serve`: the application on a port, with uvicorn, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index
from aslfast.retrieval.app import Retrieval
from aslfast.retrieval.bounded_http import protocol_with
from aslfast.retrieval.protocol import ServerLimits

LINGER_S = 0.2  # after SIGTERM: for requests that clients have already sent on open connections
log = logging.getLogger("aslfast.retrieval.app")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where the server listens, the threads that it searches with (0: all cores), its output and its limits."""

    host: str = "127.0.0.1"
    port: int = 8000
    threads: int = 0
    access_log: bool = False
    as_json: bool = False
    limits: ServerLimits = field(default_factory=ServerLimits)


def serve(folder: Path, options: ServerOptions) -> None:
    """Serve the index until a signal. Raises UserError before the port is open."""
    index = BM25Index.open(folder)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    if options.access_log:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    host = options.host
    with open_port(host, options.port) as listener:
        started = {"index": str(folder), "passages": len(index), "url": url_of(host, listener.getsockname()[1])}
        if not is_loopback(host):
            log.warning("%s is not a loopback address: anyone who reaches the port can search the index", host)
        retrieval = Retrieval(index, options.limits, options.threads)
        server = Server(retrieval, options.access_log, lambda: announce(started, options.as_json))
        server.run([listener])
        retrieval.batcher.close()


def announce(started: Mapping[str, object], as_json: bool) -> None:
    """Print that the server accepts requests."""
    line = f"serving {started['index']} ({started['passages']:,} passages) at {started['url']}"
    print(json.dumps(started) if as_json else line, flush=True)


def open_port(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises UserError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        # the error's own text repeats the address; for an unknown host (errno below 0) it is all there is
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise UserError(f"{host} port {port}: {reason}; choose another --port (0 for a free one) or --host") from error
    except OverflowError as error:
        raise UserError(f"--port {port}: no such port; use 0 to 65535") from error


def url_of(host: str, port: int) -> str:
    """Return the server's URL."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server(uvicorn.Server):
    """A server that says when its port is open, and on a signal finishes the requests in progress and returns."""

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
        """Do nothing: uvicorn's own method raises the signal again at the end; the process must exit with 0."""
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, handle signals and say that requests are accepted."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, sockets or [])
        self._opened()

    def _stop(self, sockets: list[socket.socket]) -> None:
        """Refuse new connections from now on; uvicorn itself looks at `should_exit` ten times a second."""
        self.force_exit = self.should_exit  # the second signal does not wait
        self.should_exit = True
        self._retrieval.closing = True
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for requests that are already on their way, then finish as uvicorn does."""
        await asyncio.sleep(LINGER_S)
        await super().shutdown(sockets)
