"""Who of the ranks is still there: each has a connection to rank 0, over which a thread of either says that it lives.

A process that dies closes its connection, which is seen at once; one that hangs as a whole, or whose network does, is
seen after `timeout_s` of silence. Rank 0 tells the others. Then each ends by itself: the main thread is interrupted,
and where it is stuck in a call that cannot be, the process leaves without it.
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
    """Watches from its own thread until `leave` or the end of the process.

    go_on: the command that goes on with the run. `ended` is set once it is known how another rank ended.
    """

    def __init__(self, rank: int, links: dict[int, PeerConnection], go_on: str) -> None:
        self.rank, self.go_on, self.timeout_s = rank, go_on, SILENCE_S
        self.ended = threading.Event()
        self.end: RunEnd | None = None
        self._links, self._leaving, self._left = links, False, False
        self._main = threading.main_thread()
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True, name="aslfast-ranks").start()

    def leave(self) -> None:
        """The work is done: that the connections end is no alarm."""
        self._left = True
        self._tell(Heartbeat(left=True))

    def announce_end(self, code: int, text: str) -> RunEnd:
        """Why the run ends: for what this rank says, which it then tells the others, unless another one ended first."""
        self._leaving = True
        if code == STOPPED:  # torchrun stops all others when one dies: who did may be about to be known
            self.ended.wait(1)
        with self._lock:
            if self.end is None:
                self.end = RunEnd(self.rank, code, text)
                self._tell(self.end)
            return self.end

    def should_report(self, end: RunEnd) -> bool:
        """Whether this rank prints why: rank 0, or everybody if it is rank 0 that is gone."""
        return self.rank == 0 or (end.by == 0 and end.code == ERROR and 0 not in self._links)

    def _watch(self) -> None:
        while not (self._left or self.ended.is_set()):
            self._hear(min(HEARTBEAT_S, self.timeout_s / 4))
            self._tell(Heartbeat())
            for rank, link in list(self._links.items()):
                if (silent_s := time.monotonic() - link.heard) > self.timeout_s:
                    self._lost(rank, f"has been silent for {silent_s:.0f} s (distributed.timeout_s)")

    def _hear(self, patience_s: float) -> None:
        """What arrives in that time at most."""
        with selectors.DefaultSelector() as ready:
            for rank, link in self._links.items():
                ready.register(link.socket, selectors.EVENT_READ, rank)
            ranks = [key.data for key, _ in ready.select(patience_s)]
        for rank in ranks:
            messages = self._links[rank].messages()
            if messages is None:
                self._lost(rank, "is gone, its process has ended")
            for message in messages or ():
                self._take(rank, message)

    def _take(self, rank: int, message: RunEnd | Heartbeat) -> None:
        if isinstance(message, RunEnd):
            self._over(message if self.rank else self._said(rank, message))
        elif message.left:
            self._links.pop(rank).socket.close()

    def _said(self, rank: int, end: RunEnd) -> RunEnd:
        """Another rank's word as rank 0 passes it on."""
        text = f"stopped; go on with: {self.go_on}" if end.code == STOPPED else f"rank {rank}: {end.text}"
        return RunEnd(rank, end.code, text)

    def _lost(self, rank: int, how: str) -> None:
        name = self._links.pop(rank).name
        self._over(RunEnd(rank, ERROR, f"rank {rank} ({name}) {how}; go on, with any number of ranks: {self.go_on}"))

    def _over(self, end: RunEnd) -> None:
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
        if self.should_report(end) and not self._leaving:
            print(f"aslfast: {'error: ' if end.code == ERROR else ''}{end.text}", file=sys.stderr, flush=True)
        os._exit(end.code)

    def _tell(self, message: RunEnd | Heartbeat) -> None:
        for link in list(self._links.values()):
            link.send(message)
