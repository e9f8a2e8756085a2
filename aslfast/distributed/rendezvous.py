"""How ranks reach each other beside torch.distributed: a connection from each to rank 0, and what is said over it."""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

RENDEZVOUS_TIMEOUT_S = 60.0  # for all ranks to connect


class RunEnd(msgspec.Struct, frozen=True, tag=True):
    """Why a run of several ranks ends, as it is told from one to another. by: the rank that ended first."""

    by: int
    code: int
    text: str


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """A sign of life; `left`: the last one, of a rank whose work is done."""

    left: bool = False


@dataclass
class PeerConnection:
    """A connection with another rank."""

    name: str  # of its process
    socket: socket.socket
    heard: float
    unread: bytes = b""

    def messages(self) -> list[RunEnd | Heartbeat] | None:
        """What has arrived; None after the end of the connection."""
        try:
            received = self.socket.recv(1 << 16)
        except OSError:
            return None
        if not received:
            return None
        self.heard = time.monotonic()
        *whole, self.unread = (self.unread + received).split(b"\n")
        return [msgspec.json.decode(line, type=RunEnd | Heartbeat) for line in whole]

    def send(self, message: RunEnd | Heartbeat) -> None:
        with suppress(OSError):  # the next look at it tells
            self.socket.sendall(msgspec.json.encode(message) + b"\n")


def connect_peers(store: Any, rank: int, size: int) -> dict[int, PeerConnection]:
    """The connections of this rank: rank 0's with all others, another's with rank 0. Raises OSError.

    The store tells the others where rank 0 listens, and a secret that whoever connects must know. Ranks of one machine
    meet on its loopback address.
    """
    if rank == 0:
        return _invite(store, size)
    port, secret, name = msgspec.json.decode(store.get("aslfast/watch"), type=tuple[int, str, str])
    connection = socket.create_connection((_place(), port), RENDEZVOUS_TIMEOUT_S)
    connection.sendall(msgspec.json.encode((secret, rank, _name())) + b"\n")
    return {0: _link(name, connection)}


def _invite(store: Any, size: int) -> dict[int, PeerConnection]:
    secret, links, until = secrets.token_hex(16), {}, time.monotonic() + RENDEZVOUS_TIMEOUT_S
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
    connection.settimeout(RENDEZVOUS_TIMEOUT_S)
    with suppress(OSError, msgspec.MsgspecError), connection.makefile("rb", buffering=0) as file:
        said, rank, name = msgspec.json.decode(file.readline(1000), type=tuple[str, int, str])
        if hmac.compare_digest(said, secret):
            return rank, name
    return None


def _link(name: str, connection: socket.socket) -> PeerConnection:
    connection.settimeout(None)
    return PeerConnection(name, connection, time.monotonic())


def _one_machine() -> bool:
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")


def _place() -> str:
    return "127.0.0.1" if _one_machine() else os.environ["MASTER_ADDR"]


def _name() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"
