"""The watchdog's heartbeats: at their own pace, and never in the way of a peer that does not read."""

import socket
import time
from contextlib import contextmanager

import msgspec

from aslfast.distributed.rendezvous import Heartbeat, PeerConnection, RunEnd
from aslfast.distributed.watchdog import ERROR, HEARTBEAT_S, Watchdog

LINE = msgspec.json.encode(Heartbeat()) + b"\n"


@contextmanager
def watched(*ranks):
    """(a watchdog of rank 0, the other ends of its connections)."""
    pairs = {rank: socket.socketpair() for rank in ranks}
    peers = {rank: PeerConnection(f"peer {rank}", ours, time.monotonic()) for rank, (ours, _) in pairs.items()}
    watchdog = Watchdog(0, peers, "aslfast train --resume run")
    try:
        yield watchdog, [theirs for _, theirs in pairs.values()]
    finally:
        watchdog.leave()


def lines_of(connection):
    """What has arrived, or arrives next, as messages."""
    connection.settimeout(5)
    return [msgspec.json.decode(line, type=Heartbeat | RunEnd) for line in connection.recv(1 << 20).splitlines()]


def test_a_heartbeat_is_not_answered_by_another():
    """Two ranks that did would keep each other busy without end."""
    with watched(1) as (_, (peer,)):
        started = time.monotonic()
        while time.monotonic() - started < 2.2 * HEARTBEAT_S:
            peer.sendall(LINE)
            time.sleep(0.01)
        assert 1 <= len(lines_of(peer)) <= (time.monotonic() - started) / HEARTBEAT_S + 1


def test_a_peer_that_does_not_read_stops_neither_heartbeats_nor_the_end():
    with watched(1, 2) as (watchdog, (_, other)):
        stopped_by_us = watchdog._peers[1].socket
        stopped_by_us.setblocking(False)
        try:
            while True:
                stopped_by_us.sendall(b" " * 4096)
        except BlockingIOError:
            stopped_by_us.setblocking(True)
        lines_of(other)
        time.sleep(1.2 * HEARTBEAT_S)
        assert set(lines_of(other)) == {Heartbeat()}
        end = watchdog.announce_end(ERROR, "no memory")
        assert end == RunEnd(0, ERROR, "no memory") and end in lines_of(other)
