"""One engine server as the trainer sees it: started, called, watched, killed.

Two threads carry the wire messages, so that a request may come from any event loop or from none, and a server that no
longer reads cannot block the trainer. Death shows at once where a process ends (the connection closes), and after
`timeout_s` without progress where one hangs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from pathlib import Path

from aslfast.sampler.sglang import wire
from aslfast.sampler.sglang.server_args import EngineArgs

START_S = 1800.0  # most time from start to ready: a large base from a slow disk
END_S = 10.0  # most time for killed processes to free their memory
LOG_TAIL = 2000  # characters
READY = -1  # the id of the answer that is no request's: the server is ready
TORCHRUN = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
            "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip


class EngineDied(Exception):
    """The engine has ended or hangs; the text says which. Raised in all that wait for it."""


class RequestRefused(Exception):
    """The engine would not do one request; it goes on."""


class Engine:
    """One life of an engine. Every request gets exactly one answer: a reply, RequestRefused or EngineDied."""

    def __init__(self, args: EngineArgs, log: Path, timeout_s: float) -> None:
        """Start the server and return once it is ready. Raise EngineDied if it ends before that."""
        self.log, self._timeout_s = log, timeout_s
        self._waiting: dict[int, Future[wire.Header]] = {}
        self._lock = threading.Lock()  # of _waiting and died
        self._numbers = itertools.count()
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.died: EngineDied | None = None
        self._socket, process = _spawn(log, args)
        self.pids = [process.pid]
        self._end = weakref.finalize(self, _kill, process, self.pids, self._socket)  # also when the trainer ends
        self._progress = time.monotonic()
        self._outbox.put(wire.pack(asdict(args)))
        ready: Future[wire.Header] = Future()
        self._waiting[READY] = ready
        for work in (self._write, self._read):
            threading.Thread(target=work, daemon=True, name=f"engine{work.__name__}").start()
        self.pids += ready.result()["pids"]

    def submit(self, op: str, payload: bytes = b"", **header: object) -> Future[wire.Header]:
        """Ask the server for `op`. Never blocks."""
        number, answer = next(self._numbers), Future()
        answer.set_running_or_notify_cancel()  # its waiter may be cancelled; it is answered all the same
        message = wire.pack({"op": op, "id": number, **header}, payload)
        with self._lock:
            if self.died:
                answer.set_exception(self.died)
                return answer
            if not self._waiting:
                self._progress = time.monotonic()
            self._waiting[number] = answer
        self._outbox.put(message)
        return answer

    def call(self, op: str, payload: bytes = b"", **header: object) -> wire.Header:
        """Ask the server for `op`, and wait for the answer."""
        return self.submit(op, payload, **header).result()

    def close(self) -> None:
        """End the engine and all its processes."""
        self._die("closed")
        self._end()

    def _die(self, why: str) -> None:
        """End the engine, once, and raise EngineDied in all that wait."""
        with self._lock:
            if self.died:
                return
            self.died = EngineDied(why)
            waiting, self._waiting = self._waiting, {}
        self._end()
        self._outbox.put(None)
        for answer in waiting.values():
            answer.set_exception(self.died)

    def _write(self) -> None:
        """Send what is in the outbox."""
        while (message := self._outbox.get()) is not None:
            try:
                self._socket.sendall(message)
            except OSError:
                return self._die("its process has ended")

    def _read(self) -> None:
        """Deliver answers; watch for progress while there are requests."""
        try:
            while self._wait_for_message():
                header, _ = wire.read(partial(wire.receive, self._socket))
                self._progress = time.monotonic()
                self._deliver(header)
        except (OSError, ValueError):
            self._die("its process has ended")

    def _wait_for_message(self) -> bool:
        """Return True once there is something to read, False after an end for lack of progress."""
        while not select.select([self._socket], [], [], min(1.0, self._timeout_s / 4))[0]:
            limit_s = START_S if READY in self._waiting else self._timeout_s
            if self._waiting and time.monotonic() - self._progress > limit_s:
                self._die(f"it made no progress for {limit_s:g} s")
                return False
        return True

    def _deliver(self, header: wire.Header) -> None:
        if header.get("op") == "heartbeat":
            return
        with self._lock:
            answer = self._waiting.pop(header.get("id", READY), None)
        if answer is None:
            return
        if "error" in header:
            answer.set_exception(RequestRefused(header["error"]))
        else:
            answer.set_result(header)


def _spawn(log: Path, args: EngineArgs) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Return (our end of the connection, the server): it leads a process group of its own, its output goes to `log`."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "aslfast.sampler.sglang.engine_server", str(theirs.fileno()), str(os.getpid())]
    with open(log, "ab") as file, theirs:
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True, env=_environment(args),
        )  # fmt: skip
    return ours, process


def _environment(args: EngineArgs) -> dict[str, str]:
    """Return the trainer's environment without torchrun's variables: the engine's processes are ranks of their own."""
    kept = {k: v for k, v in os.environ.items() if k not in TORCHRUN and not k.startswith("TORCHELASTIC")}
    if args.device == "cpu":
        kept["OMP_NUM_THREADS"] = "1"  # more threads wait for each other on small tensors
    if args.gpus:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(args.gpus)
    return kept


def _kill(process: subprocess.Popen[bytes], pids: list[int], connection: socket.socket) -> None:
    """End the server's whole process group by SIGKILL: a process that hangs or is stopped takes no other signal.

    Return once all have ended, or after END_S.
    """
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # wakes both threads; closed when the last of them drops it
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + END_S
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Return whether a process still holds memory: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def log_tail(log: Path) -> str:
    """Return the end of an engine's log, on one line."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
    except OSError:
        return "none"
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-3:])[-500:] or "none"
