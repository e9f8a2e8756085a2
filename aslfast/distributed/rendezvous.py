"""Connections of the ranks next to torch.distributed: one from each to rank 0, and the messages that pass over it."""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import msgspec

RENDEZVOUS_TIMEOUT_S = 60.0  # for all ranks to connect
STORE_KEY = "aslfast/watch"  # rank 0's (port, secret, name)


class Store(Protocol):
    """torch.distributed's store, which all ranks can reach."""

    def get(self, key: str) -> bytes: ...

    def set(self, key: str, value: str) -> None: ...


class RunEnd(msgspec.Struct, frozen=True, tag=True):
    """Why a run of several ranks ends, as one rank sends it to another. by: the rank that ended first."""

    by: int
    code: int
    text: str


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """A sign of life. left: the last one, of a rank whose work is done."""

    left: bool = False


@dataclass
class PeerConnection:
    """A connection with another rank."""

    name: str  # of its process
    socket: socket.socket
    heard: float  # when the last bytes arrived
    unread: bytes = b""

    def messages(self) -> list[RunEnd | Heartbeat] | None:
        """Return what has arrived; None after the end of the connection."""
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
        """Send a message, or drop it where a peer has stopped reading: its silence shows. So does a broken connection,
        at the next read."""
        with suppress(OSError):
            self.socket.sendall(msgspec.json.encode(message) + b"\n", socket.MSG_DONTWAIT)


def connect_peers(store: Store, rank: int, size: int) -> dict[int, PeerConnection]:
    """Return the connections of this rank: rank 0's with all others, another's with rank 0. Raise OSError.

    The store holds rank 0's port, and a secret that a peer must send. Ranks of one machine connect over its loopback
    address.
    """
    if rank == 0:
        return _accept_peers(store, size)
    port, secret, name = msgspec.json.decode(store.get(STORE_KEY), type=tuple[int, str, str])
    connection = socket.create_connection((_rank_zero_address(), port), RENDEZVOUS_TIMEOUT_S)
    connection.sendall(msgspec.json.encode((secret, rank, _process_name())) + b"\n")
    return {0: _peer_connection(name, connection)}


def _accept_peers(store: Store, size: int) -> dict[int, PeerConnection]:
    """Accept all other ranks. Raise OSError where one does not connect in time."""
    secret, peers, deadline = secrets.token_hex(16), {}, time.monotonic() + RENDEZVOUS_TIMEOUT_S
    with socket.create_server(("127.0.0.1" if _on_one_machine() else "", 0), backlog=size) as listener:
        address = msgspec.json.encode((listener.getsockname()[1], secret, _process_name()))
        store.set(STORE_KEY, address.decode())
        while len(peers) < size - 1:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            connection = listener.accept()[0]
            if peer := _authenticate(connection, secret):
                peers[peer[0]] = _peer_connection(peer[1], connection)
            else:
                connection.close()
    return peers


def _authenticate(connection: socket.socket, secret: str) -> tuple[int, str] | None:
    """Return (rank, name) of the peer; None if it does not know the secret."""
    connection.settimeout(RENDEZVOUS_TIMEOUT_S)
    with suppress(OSError, msgspec.MsgspecError), connection.makefile("rb", buffering=0) as file:
        sent, rank, name = msgspec.json.decode(file.readline(1000), type=tuple[str, int, str])
        if hmac.compare_digest(sent, secret):
            return rank, name
    return None


def _peer_connection(name: str, connection: socket.socket) -> PeerConnection:
    connection.settimeout(None)
    return PeerConnection(name, connection, time.monotonic())


def _on_one_machine() -> bool:
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")


def _rank_zero_address() -> str:
    return "127.0.0.1" if _on_one_machine() else os.environ["MASTER_ADDR"]


def _process_name() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"
