"""One engine host as the trainer sees it: started, asked, watched, killed.

Two threads carry the frames, so that a request may come from any event loop or from none, and a host that no longer
reads cannot block the trainer. Loss is found at once where a process ends (the link closes), and after `timeout_s`
without progress where one hangs.
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
from pathlib import Path
from typing import Any

from aslfast.sampler.sglang import wire
from aslfast.sampler.sglang.server_args import EngineSettings

START_S = 1800.0  # most time from start to ready: a large base from a slow disk
END_S = 10.0  # most time for killed processes to let their memory go
LOG_TAIL = 2000  # characters
TORCHRUN = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
            "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip


class EngineDied(Exception):
    """The engine has ended or hangs; the text says which. Whoever waited for it is told by this."""


class RequestRefused(Exception):
    """The engine would not do one request; it goes on."""


class Engine:
    """One life of an engine. Every request gets exactly one answer: a reply, RequestRefused or EngineLost."""

    def __init__(self, settings: EngineSettings, log: Path, timeout_s: float) -> None:
        """Starts the host and returns once it is ready. EngineLost if it ends before that."""
        self.log, self._timeout_s = log, timeout_s
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()  # of _waiting and lost
        self._numbers = itertools.count()
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.lost: EngineDied | None = None
        self._link, process = _spawn(log, settings)
        self.pids = [process.pid]
        self._end = weakref.finalize(self, _kill, process, self.pids, self._link)  # also when the trainer ends
        self._progress = time.monotonic()
        self._outbox.put(wire.pack(asdict(settings)))
        ready: Future[dict[str, Any]] = Future()
        self._waiting[-1] = ready
        for work in (self._write, self._read):
            threading.Thread(target=work, daemon=True, name=f"engine{work.__name__}").start()
        self.pids += ready.result()["pids"]

    def submit(self, op: str, payload: bytes = b"", **header: Any) -> Future[dict[str, Any]]:
        """Ask the host for `op`. Never blocks."""
        number, answer = next(self._numbers), Future()
        answer.set_running_or_notify_cancel()  # whoever awaits it may be cancelled; it is answered all the same
        frame = wire.pack({"op": op, "id": number, **header}, payload)
        with self._lock:
            if self.lost:
                answer.set_exception(self.lost)
                return answer
            if not self._waiting:
                self._progress = time.monotonic()
            self._waiting[number] = answer
        self._outbox.put(frame)
        return answer

    def call(self, op: str, payload: bytes = b"", **header: Any) -> dict[str, Any]:
        """`submit`, and wait for the answer."""
        return self.submit(op, payload, **header).result()

    def close(self) -> None:
        """End the engine and all its processes."""
        self._lose("closed")
        self._end()

    def _lose(self, why: str) -> None:
        with self._lock:
            if self.lost:
                return
            self.lost = EngineDied(why)
            waiting, self._waiting = self._waiting, {}
        self._end()
        self._outbox.put(None)
        for answer in waiting.values():
            answer.set_exception(self.lost)

    def _write(self) -> None:
        while (frame := self._outbox.get()) is not None:
            try:
                self._link.sendall(frame)
            except OSError:
                return self._lose("its process has ended")

    def _read(self) -> None:
        """Hand out answers; watch for progress while something is asked."""
        try:
            while self._wait_for_frame():
                header, _ = wire.read(self._receive)
                self._progress = time.monotonic()
                self._hand_out(header)
        except (OSError, ValueError):
            self._lose("its process has ended")

    def _wait_for_frame(self) -> bool:
        while not select.select([self._link], [], [], min(1.0, self._timeout_s / 4))[0]:
            limit_s = START_S if -1 in self._waiting else self._timeout_s
            if self._waiting and time.monotonic() - self._progress > limit_s:
                self._lose(f"it made no progress for {limit_s:g} s")
                return False
        return True

    def _receive(self, n: int) -> bytes:
        data = bytearray()
        while len(data) < n:
            part = self._link.recv(min(n - len(data), 1 << 20))
            if not part:
                raise OSError("closed")
            data += part
        return bytes(data)

    def _hand_out(self, header: dict[str, Any]) -> None:
        if header.get("op") == "beat":
            return
        with self._lock:
            answer = self._waiting.pop(header.get("id", -1), None)
        if answer is None:
            return
        if "error" in header:
            answer.set_exception(RequestRefused(header["error"]))
        else:
            answer.set_result(header)


def _spawn(log: Path, settings: EngineSettings) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """(our end of the link, the host), the host leading a process group of its own, its words in `log`."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "aslfast.sampler.sglang.engine_server", str(theirs.fileno()), str(os.getpid())]
    with open(log, "ab") as file, theirs:
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True, env=_environment(settings),
        )  # fmt: skip
    return ours, process


def _environment(settings: EngineSettings) -> dict[str, str]:
    """The trainer's, but for what torchrun told it as a rank: the engine's processes are ranks of each other alone."""
    kept = {k: v for k, v in os.environ.items() if k not in TORCHRUN and not k.startswith("TORCHELASTIC")}
    if settings.device == "cpu":
        kept["OMP_NUM_THREADS"] = "1"  # more threads wait for each other on small tensors
    if settings.gpus:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(settings.gpus)
    return kept


def _kill(process: subprocess.Popen[bytes], pids: list[int], link: socket.socket) -> None:
    """End the host's whole group: a process that hangs or is stopped takes no other signal. Returns once all ended."""
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)  # wakes both threads; closed when the last of them lets it go
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + END_S
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    """Whether a process still holds memory: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def log_tail(log: Path) -> str:
    """The end of an engine's log, on one line."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
    except OSError:
        return "none"
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-3:])[-500:] or "none"
