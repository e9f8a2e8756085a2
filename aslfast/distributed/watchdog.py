"""Liveness of the ranks: each has a connection to rank 0, over which a thread of either sends heartbeats.

A process that dies closes its connection, which shows at once; one that hangs as a whole, or whose network does, shows
after `timeout_s` of silence. Rank 0 informs the others. Then each ends by itself: the main thread is interrupted, and
where it is stuck in a call that cannot be interrupted, the process exits without it.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import threading
import time

from aslfast.distributed.rendezvous import Heartbeat, PeerConnection, RunEnd

ERROR, STOPPED = 2, 130  # exit codes, as the command line has them
HEARTBEAT_S = 1.0
GRACE_S = 3.0  # for the main thread to end by itself
SILENCE_S = 60.0  # until the configuration's distributed.timeout_s is known


class Watchdog:
    """A thread that watches the other ranks until `leave` or the end of the process.

    resume_command: what a user types to go on with the run. `ended` is set once it is known how another rank ended.
    """

    def __init__(self, rank: int, peers: dict[int, PeerConnection], resume_command: str) -> None:
        self.rank, self.resume_command, self.timeout_s = rank, resume_command, SILENCE_S
        self.ended = threading.Event()
        self.end: RunEnd | None = None
        self._peers, self._leaving, self._left = peers, False, False
        self._main = threading.main_thread()
        self._lock = threading.Lock()  # of `end`
        threading.Thread(target=self._watch, daemon=True, name="aslfast-ranks").start()

    def leave(self) -> None:
        """Stop watching: the work is done, and closed connections are no failure."""
        self._left = True
        self._send_to_all(Heartbeat(left=True))

    def announce_end(self, code: int, text: str) -> RunEnd:
        """Return why the run ends: for this rank's reason, which is sent to the others, or for an earlier one."""
        self._leaving = True
        if code == STOPPED:  # torchrun stops all others when one dies: the news of that one may be on its way
            self.ended.wait(1)
        with self._lock:
            if self.end is None:
                self.end = RunEnd(self.rank, code, text)
                self._send_to_all(self.end)
            return self.end

    def should_report(self, end: RunEnd) -> bool:
        """Return whether this rank prints why: rank 0, or every rank if rank 0 is gone."""
        return self.rank == 0 or (end.by == 0 and end.code == ERROR and 0 not in self._peers)

    def _watch(self) -> None:
        """Exchange heartbeats until the run ends or a rank is lost."""
        due = time.monotonic()
        while not (self._left or self.ended.is_set()):
            if (now := time.monotonic()) >= due:  # not at each message: two ranks would answer each other without end
                self._send_to_all(Heartbeat())
                due = now + min(HEARTBEAT_S, self.timeout_s / 4)
            self._receive(max(0.0, due - time.monotonic()))
            for rank, peer in list(self._peers.items()):
                if (silent_s := time.monotonic() - peer.heard) > self.timeout_s:
                    self._lose(rank, f"has been silent for {silent_s:.0f} s (distributed.timeout_s)")

    def _receive(self, timeout_s: float) -> None:
        """Handle the messages that arrive within `timeout_s`."""
        with selectors.DefaultSelector() as ready:
            for rank, peer in self._peers.items():
                ready.register(peer.socket, selectors.EVENT_READ, rank)
            ranks = [key.data for key, _ in ready.select(timeout_s)]
        for rank in ranks:
            messages = self._peers[rank].messages()
            if messages is None:
                self._lose(rank, "is gone, its process has ended")
            for message in messages or ():
                self._handle(rank, message)

    def _handle(self, rank: int, message: RunEnd | Heartbeat) -> None:
        if isinstance(message, RunEnd):
            self._end_process(message if self.rank else self._relayed(rank, message))
        elif message.left:
            self._peers.pop(rank).socket.close()

    def _relayed(self, rank: int, end: RunEnd) -> RunEnd:
        """Return another rank's end as rank 0 sends it on to the others."""
        text = f"stopped; go on with: {self.resume_command}" if end.code == STOPPED else f"rank {rank}: {end.text}"
        return RunEnd(rank, end.code, text)

    def _lose(self, rank: int, how: str) -> None:
        """End this process because another one is gone or silent."""
        name = self._peers.pop(rank).name
        suggestion = f"go on, with any number of ranks: {self.resume_command}"
        self._end_process(RunEnd(rank, ERROR, f"rank {rank} ({name}) {how}; {suggestion}"))

    def _end_process(self, end: RunEnd) -> None:
        """End this process for the first reason there is: by an interrupt, or after GRACE_S without the main thread.

        First the interrupt, then `ended`: a thread that waits for it is not interrupted again.
        """
        with self._lock:
            if self.end is not None or self._left:
                return
            self.end = end
        if self.rank == 0:
            self._send_to_all(end)
        if not self._leaving:
            signal.pthread_kill(self._main.ident or 0, signal.SIGINT)
        self.ended.set()
        time.sleep(GRACE_S)
        if self.should_report(end) and not self._leaving:
            print(f"aslfast: {'error: ' if end.code == ERROR else ''}{end.text}", file=sys.stderr, flush=True)
        os._exit(end.code)

    def _send_to_all(self, message: RunEnd | Heartbeat) -> None:
        for peer in list(self._peers.values()):
            peer.send(message)
