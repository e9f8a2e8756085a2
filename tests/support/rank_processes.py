"""Ranks as torchrun starts them, each a process forked from one that has imported torch."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aslfast.cli.main import app
from tests.support.killed_runs import started, untimed

# Each rank's own sampler and packs: what is reused, and what two trajectories share, depends on what shares a batch.
PER_RANK = {"prefix_cache", "forward_tokens", "shared_tokens", "learn_flops"}


def ranks_of(size: int, act: Callable, *args) -> list:
    """Start `act(*args)` in `size` processes that are ranks of each other; return the processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return [started(_as_rank, rank, size, port, act, args) for rank in range(size)]


def _as_rank(rank: int, size: int, port: int, act: Callable, args: tuple) -> None:
    place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    act(*args)


def command(folder: Path, *arguments: object) -> None:
    """Run the command line's `aslfast`; its stderr goes to `folder`/stderr-RANK.txt."""
    stderr = os.open(folder / f"stderr-{os.environ['RANK']}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stderr, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    app([str(argument) for argument in arguments], prog_name="aslfast")


def stderr_of(folder: Path, rank: int) -> str:
    return (folder / f"stderr-{rank}.txt").read_text()


def exit_codes(processes: list, within_s: float) -> list[int | None]:
    """Return the exit codes; None for a process that still runs after that time, and is killed."""
    for process in processes:
        process.join(within_s)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    sys.stderr.flush()
    return codes


def same_run(run, other):
    """Assert the same lines but for timing and last bits, and adapters of the same versions."""
    for name in ("metrics.jsonl", "rounds.jsonl"):
        lines, others = untimed(run / name), untimed(other / name)
        assert len(lines) == len(others) and lines
        for line, wanted in zip(lines, others, strict=True):
            assert line.keys() == wanted.keys()
            for key in wanted.keys() - PER_RANK:
                assert line[key] == near(wanted[key]), (key, line.get("phase", name))
    versions = [sorted(p.relative_to(r) for p in (r / "adapters").rglob("v*")) for r in (run, other)]
    assert versions[0] == versions[1] != []


def near(wanted):
    """Return what matches `wanted` up to last bits: differences of log-probs (mismatch, ratios) are themselves that."""
    if isinstance(wanted, dict):
        return {key: near(value) for key, value in wanted.items()}
    return pytest.approx(wanted, rel=1e-3, abs=1e-4) if isinstance(wanted, float) else wanted
