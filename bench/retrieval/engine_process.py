"""A process for one engine, which runs one command at a time.

Allocators, thread pools and interpreters of the engines never mix, and the caller gives the machine to one at a time.
Times are taken inside the worker: the pipe is not part of them.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.retrieval.engines import make_engine


class Worker:
    """The process of an engine. What the engine prints goes to `log`."""

    def __init__(self, engine: str, log: Path) -> None:
        self.engine = engine
        self._pipe, theirs = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=serve, args=(theirs, engine, log), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, command: str, *args: Any) -> Any:
        """Run a method of `Commands` in the process. Raises RuntimeError where the engine fails or its process dies."""
        self._pipe.send((command, args))
        try:
            failure, result = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"{self.engine}: the process ended in {command} (exit code {code})") from None
        if failure:
            raise RuntimeError(f"{self.engine}: {command} failed\n{failure}")
        return result

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def serve(pipe: Connection, engine: str, log: Path) -> None:
    to_log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):  # C++ engines write to these directly
        os.dup2(to_log, stream)
    commands = Commands(engine)
    while True:
        try:
            name, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((None, getattr(commands, name)(*args)))
        except Exception:  # an engine may raise anything: the caller gets it
            pipe.send((traceback.format_exc(), None))


class Commands:
    """The commands of a worker."""

    def __init__(self, engine: str) -> None:
        self.engine = make_engine(engine)
        for module in self.engine.modules:
            import_module(module)

    def build(self, files: list[Path], folder: Path, threads: int) -> dict[str, float]:
        start = time.perf_counter()
        self.engine.build(files, folder, threads)
        return {"seconds": time.perf_counter() - start, "peak_mb": memory_mb()["VmHWM"]}

    def open(self, folder: Path, query: str) -> dict[str, float]:
        """Return the milliseconds to open and to answer the first query, which includes just-in-time compilation."""
        start = time.perf_counter()
        self.engine.open(folder)
        opened = time.perf_counter()
        self.engine.search([query], 3, 1)
        return {"open_ms": 1e3 * (opened - start), "first_query_ms": 1e3 * (time.perf_counter() - opened)}

    def latencies_ms(self, queries: Sequence[str], k: int) -> list[float]:
        """Return the milliseconds of each query alone, on one thread."""
        times = []
        for query in queries:
            start = time.perf_counter()
            self.engine.search([query], k, 1)
            times.append(1e3 * (time.perf_counter() - start))
        return times

    def batch_s(self, queries: list[str], k: int, threads: int) -> float:
        start = time.perf_counter()
        self.engine.search(queries, k, threads)
        return time.perf_counter() - start

    def hits(self, queries: list[str], k: int) -> list[list[Any]]:
        return [list(row) for row in self.engine.search(queries, k, 1)]

    def memory(self) -> dict[str, float]:
        return memory_mb()


def memory_mb() -> dict[str, float]:
    """Return VmHWM (peak resident), VmRSS and RssAnon (not shared, not files), in MB of 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmHWM", "VmRSS", "RssAnon")}
