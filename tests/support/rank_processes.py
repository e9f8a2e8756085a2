"""Ranks as torchrun starts them, each a process forked from one that has torch already."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aslfast.cli.main import app
from tests.support.killed_runs import started, untimed

# Each rank's own sampler and packs: what is reused, and what two trajectories share, depends on who is beside whom.
PER_RANK = {"prefix_cache", "forward_tokens", "shared_tokens"}


def ranks_of(size: int, act: Callable, *args) -> list:
    """`act(*args)` in `size` processes that are ranks of each other."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return [started(_as_rank, rank, size, port, act, args) for rank in range(size)]


def _as_rank(rank: int, size: int, port: int, act: Callable, args: tuple) -> None:
    place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    act(*args)


def command(folder: Path, *arguments: object) -> None:
    """The command line's `aslfast`; what it says on stderr goes to `folder`/said-RANK.txt."""
    said = os.open(folder / f"said-{os.environ['RANK']}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    app([str(argument) for argument in arguments], prog_name="aslfast")


def said(folder: Path, rank: int) -> str:
    return (folder / f"said-{rank}.txt").read_text()


def ended(processes: list, within_s: float) -> list[int | None]:
    """Exit codes; None for a process that is still there after that time, and is killed."""
    for process in processes:
        process.join(within_s)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    sys.stderr.flush()
    return codes


def same_run(run, other):
    """The same lines but for timing and last bits, and the same questions; adapters of the same versions."""
    for name in ("metrics.jsonl", "rounds.jsonl"):
        lines, others = untimed(run / name), untimed(other / name)
        assert len(lines) == len(others) and lines
        for line, wanted in zip(lines, others, strict=True):
            assert line.keys() == wanted.keys()
            for key in wanted.keys() - PER_RANK:
                assert line[key] == near(wanted[key]), (key, line.get("phase", name))
    versions = [sorted(p.relative_to(r) for p in (r / "adapters").rglob("v*")) for r in (run, other)]
    assert versions[0] == versions[1] and len(versions[0]) == 3


def near(wanted):
    """Differences of log-probs (mismatch, ratios) are themselves last bits."""
    if isinstance(wanted, dict):
        return {key: near(value) for key, value in wanted.items()}
    return pytest.approx(wanted, rel=1e-3, abs=1e-4) if isinstance(wanted, float) else wanted
