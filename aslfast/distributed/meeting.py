"""How the ranks of a run find each other: by torchrun's environment, in a store that rank 0 or torchrun holds.

Stale variables of another run, as in a pod's environment, name ranks that never come: who is missing is said within
seconds, and the waiting has an end.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from aslfast.errors import UserError

MEETING_TIMEOUT_S = 300.0  # for all ranks to be there
NOTICE_S = 5.0  # of waiting, until it is said
POLL_S = 0.2
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """A rank as torchrun's variables describe it."""

    rank: int
    size: int
    host: str  # where the store is
    port: int

    @property
    def place(self) -> str:
        """Where the ranks meet, and why this one thinks so."""
        return f"{self.host}:{self.port} (WORLD_SIZE={self.size} and MASTER_ADDR are set)"


def launch_of_environment() -> Launch | None:
    """Return how this process was launched as one of several ranks; None where it is alone. Raise UserError."""
    if _number("WORLD_SIZE", "1", least=1) == 1:
        return None
    launch = Launch(
        _number("RANK"), _number("WORLD_SIZE"), os.environ.get("MASTER_ADDR", ""), _number("MASTER_PORT", most=65535)
    )
    if not launch.host:
        raise UserError(f"ranks: WORLD_SIZE is {launch.size}, but MASTER_ADDR is not set; {how_to_start()}")
    if launch.rank >= launch.size:
        raise UserError(f"ranks: RANK is {launch.rank}, but WORLD_SIZE only {launch.size}; {how_to_start()}")
    return launch


def _number(name: str, default: str = "", least: int = 0, most: int = 1_000_000) -> int:
    text = os.environ.get(name, default)
    if text.isascii() and text.isdecimal() and least <= int(text) <= most:
        return int(text)
    found = f"{name} is {text!r}, no number from {least} to {most}" if text else f"{name} is not set"
    raise UserError(f"ranks: {found}; {how_to_start()}")


def how_to_start() -> str:
    """Return how to start the ranks, or one process alone."""
    unset = " ".join(f"-u {name}" for name in VARIABLES if name in os.environ)
    return f"start all ranks with torchrun, or this process alone: env {unset} aslfast ..."


def meet(launch: Launch, timeout_s: float = MEETING_TIMEOUT_S) -> PrefixStore:
    """Return the ranks' common store once all of them are there. Raise UserError after `timeout_s`."""
    wait = _Wait(launch, timeout_s)
    if launch.rank and not _torchrun_holds_store():
        wait.until(lambda: [] if _reachable(launch) else [0])
    store = PrefixStore(f"aslfast/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", _open_store(launch))
    store.set(_key(launch.rank), "here")
    wait.until(lambda: [rank for rank in range(launch.size) if not store.check([_key(rank)])])
    return store


def _key(rank: int) -> str:
    return f"rank-{rank}"


class _Wait:
    """Waits until no rank is missing: says it after NOTICE_S, and ends it after `timeout_s`."""

    def __init__(self, launch: Launch, timeout_s: float) -> None:
        self.launch, self.timeout_s = launch, timeout_s
        self.started, self.told = time.monotonic(), False

    def until(self, missing: Callable[[], list[int]]) -> None:
        """Wait until `missing` returns no rank. Raise UserError."""
        while ranks := missing():
            waited_s = time.monotonic() - self.started
            whom = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks[:8]))}"
            whom = f"{whom} and {len(ranks) - 8} more" if len(ranks) > 8 else whom
            if waited_s > self.timeout_s:
                what = f"rank {self.launch.rank} has waited {waited_s:.0f} s for {whom} at {self.launch.place}"
                raise UserError(f"ranks: {what}; {how_to_start()}")
            if waited_s > NOTICE_S and not self.told and (self.launch.rank == 0 or 0 in ranks):
                self.told = True
                what = f"rank {self.launch.rank} waits for {whom} at {self.launch.place}"
                end = f"at most {self.timeout_s:.0f} s; {how_to_start()}"
                print(f"aslfast: {what}, {end}", file=sys.stderr, flush=True)
            time.sleep(POLL_S)


def _torchrun_holds_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _reachable(launch: Launch) -> bool:
    """Return whether something listens where the store is to be; torch's own attempts print stack traces."""
    try:
        socket.create_connection((launch.host, launch.port), timeout=2).close()
        return True
    except OSError:
        return False


def _open_store(launch: Launch) -> TCPStore:
    """Return the store that rank 0 holds, or torchrun's. Rank 0 reaches its own over the loopback address: a stale
    MASTER_ADDR is another machine's. Raise RuntimeError."""
    holds = launch.rank == 0 and not _torchrun_holds_store()
    return TCPStore(
        "127.0.0.1" if holds else launch.host, launch.port, launch.size, holds, timedelta(seconds=MEETING_TIMEOUT_S),
        wait_for_workers=False, multi_tenant=holds,
    )  # fmt: skip
