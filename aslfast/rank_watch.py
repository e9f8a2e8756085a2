"""Who of the ranks is still there: each has a connection to rank 0, over which a thread of either says that it lives.

A process that dies closes its connection, which is seen at once; one that hangs as a whole, or whose network does, is
seen after `timeout_s` of silence. Rank 0 tells the others. Then each ends by itself: the main thread is interrupted,
and where it is stuck in a call that cannot be, the process leaves without it.
"""

from __future__ import annotations

import hmac
import os
import secrets
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

ERROR, STOPPED = 2, 130  # exit codes, as the command line has them
MEETING_S = 60.0  # for all ranks to connect
BEAT_S = 1.0
GRACE_S = 3.0  # for the main thread to end by itself
SILENCE_S = 60.0  # until the configuration's ranks.timeout_s is known


class End(msgspec.Struct, frozen=True, tag=True):
    """Why a run of several ranks ends, as it is told from one to another. by: the rank that ended first."""

    by: int
    code: int
    text: str


class Alive(msgspec.Struct, frozen=True, tag=True):
    """A sign of life; `left`: the last one, of a rank whose work is done."""

    left: bool = False


@dataclass
class Link:
    """A connection with another rank."""

    name: str  # of its process
    socket: socket.socket
    heard: float
    unread: bytes = b""

    def messages(self) -> list[End | Alive] | None:
        """What has arrived; None after the end of the connection."""
        try:
            received = self.socket.recv(1 << 16)
        except OSError:
            return None
        if not received:
            return None
        self.heard = time.monotonic()
        *whole, self.unread = (self.unread + received).split(b"\n")
        return [msgspec.json.decode(line, type=End | Alive) for line in whole]

    def send(self, message: End | Alive) -> None:
        with suppress(OSError):  # the next look at it tells
            self.socket.sendall(msgspec.json.encode(message) + b"\n")


class Watch:
    """Watches from its own thread until `leave` or the end of the process.

    go_on: the command that goes on with the run. `ended` is set once it is known how another rank ended.
    """

    def __init__(self, rank: int, links: dict[int, Link], go_on: str) -> None:
        self.rank, self.go_on, self.timeout_s = rank, go_on, SILENCE_S
        self.ended = threading.Event()
        self.end: End | None = None
        self._links, self._leaving, self._left = links, False, False
        self._main = threading.main_thread()
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True, name="aslfast-ranks").start()

    def leave(self) -> None:
        """The work is done: that the connections end is no alarm."""
        self._left = True
        self._tell(Alive(left=True))

    def last_word(self, code: int, text: str) -> End:
        """Why the run ends: for what this rank says, which it then tells the others, unless another one ended first."""
        self._leaving = True
        if code == STOPPED:  # torchrun stops all others when one dies: who did may be about to be known
            self.ended.wait(1)
        with self._lock:
            if self.end is None:
                self.end = End(self.rank, code, text)
                self._tell(self.end)
            return self.end

    def speaks(self, end: End) -> bool:
        """Whether this rank prints why: rank 0, or everybody if it is rank 0 that is gone."""
        return self.rank == 0 or (end.by == 0 and end.code == ERROR and self._gone(0))

    def _gone(self, rank: int) -> bool:
        return rank not in self._links

    def _watch(self) -> None:
        while not (self._left or self.ended.is_set()):
            self._hear(min(BEAT_S, self.timeout_s / 4))
            self._tell(Alive())
            for rank, link in list(self._links.items()):
                if (silent_s := time.monotonic() - link.heard) > self.timeout_s:
                    self._lost(rank, f"has been silent for {silent_s:.0f} s (ranks.timeout_s)")

    def _hear(self, patience_s: float) -> None:
        """What arrives in that time at most."""
        sockets = {link.socket: rank for rank, link in self._links.items()}
        if not sockets:
            time.sleep(patience_s)
        for ready in select.select(list(sockets), [], [], patience_s)[0] if sockets else ():
            messages = self._links[sockets[ready]].messages()
            if messages is None:
                self._lost(sockets[ready], "is gone, its process has ended")
            for message in messages or ():
                self._take(sockets[ready], message)

    def _take(self, rank: int, message: End | Alive) -> None:
        if isinstance(message, End):
            self._over(message if self.rank else self._said(rank, message))
        elif message.left:
            self._links.pop(rank).socket.close()

    def _said(self, rank: int, end: End) -> End:
        """Another rank's word as rank 0 passes it on."""
        text = f"stopped; go on with: {self.go_on}" if end.code == STOPPED else f"rank {rank}: {end.text}"
        return End(rank, end.code, text)

    def _lost(self, rank: int, how: str) -> None:
        name = self._links.pop(rank).name
        self._over(End(rank, ERROR, f"rank {rank} ({name}) {how}; go on, with any number of ranks: {self.go_on}"))

    def _over(self, end: End) -> None:
        """Ends this process for the first reason there is: by an interrupt, or within GRACE_S without the main thread.

        First the interrupt, then `ended`: who waits for that is not interrupted again.
        """
        with self._lock:
            if self.end is not None or self._left:
                return
            self.end = end
        if self.rank == 0:
            self._tell(end)
        if not self._leaving:
            signal.pthread_kill(self._main.ident or 0, signal.SIGINT)
        self.ended.set()
        time.sleep(GRACE_S)
        if self.speaks(end) and not self._leaving:
            print(f"aslfast: error: {end.text}", file=sys.stderr, flush=True)
        os._exit(end.code)

    def _tell(self, message: End | Alive) -> None:
        for link in list(self._links.values()):
            link.send(message)


# --- meeting -----------------------------------------------------------------------------------------------------


def meet(store: Any, rank: int, size: int) -> dict[int, Link]:
    """The connections of this rank: rank 0's with all others, another's with rank 0. Raises OSError.

    The store tells the others where rank 0 listens, and a secret that whoever connects must know. Ranks of one machine
    meet on its loopback address.
    """
    if rank == 0:
        return _invite(store, size)
    port, secret, name = msgspec.json.decode(store.get("aslfast/watch"), type=tuple[int, str, str])
    connection = socket.create_connection((_place(), port), MEETING_S)
    connection.sendall(msgspec.json.encode((secret, rank, _name())) + b"\n")
    return {0: _link(name, connection)}


def _invite(store: Any, size: int) -> dict[int, Link]:
    secret, links, until = secrets.token_hex(16), {}, time.monotonic() + MEETING_S
    with socket.create_server(("127.0.0.1" if _one_machine() else "", 0), backlog=size) as listener:
        store.set("aslfast/watch", msgspec.json.encode((listener.getsockname()[1], secret, _name())))
        while len(links) < size - 1:
            listener.settimeout(max(0.01, until - time.monotonic()))
            connection = listener.accept()[0]
            if guest := _guest(connection, secret):
                links[guest[0]] = _link(guest[1], connection)
            else:
                connection.close()
    return links


def _guest(connection: socket.socket, secret: str) -> tuple[int, str] | None:
    """(rank, name) of who connected; None for a stranger."""
    connection.settimeout(MEETING_S)
    with suppress(OSError, msgspec.MsgspecError), connection.makefile("rb", buffering=0) as file:
        said, rank, name = msgspec.json.decode(file.readline(1000), type=tuple[str, int, str])
        if hmac.compare_digest(said, secret):
            return rank, name
    return None


def _link(name: str, connection: socket.socket) -> Link:
    connection.settimeout(None)
    return Link(name, connection, time.monotonic())


def _one_machine() -> bool:
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")


def _place() -> str:
    return "127.0.0.1" if _one_machine() else os.environ["MASTER_ADDR"]


def _name() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"
