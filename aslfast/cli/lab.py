"""`aslfast lab train-base` and `aslfast lab measure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aslfast.cli.progress import Meter, quiet_libraries, stdout

FIRST_WORLD = 1001  # far from the seeds that runs use


def train_base(out: Path, seed: int, quiet: bool) -> None:
    from aslfast.lab import pretrain

    quiet_libraries()
    with Meter("train-base", None, "tokens", quiet) as meter:

        def report(stage: str, done: int, total: int, loss: float) -> None:
            meter.total = total
            meter.move_to(done, note=f"{stage}, loss {loss:.2f}")

        pretrain.train_base(out, seed, report)


def measure(model: str, worlds: int, quiet: bool) -> list[dict[str, Any]]:
    from aslfast.trainer.lab_evaluation import evaluate_base

    quiet_libraries()
    measured = []
    with Meter("measure", worlds, "worlds", quiet) as meter:
        for seed in range(FIRST_WORLD, FIRST_WORLD + worlds):
            measured += evaluate_base(model, [seed])
            meter.advance()
    return measured


def print_measured(measured: Sequence[Mapping[str, Any]]) -> None:
    hops = sorted({name for world in measured for name in world["by_hops"]})
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in (
        "world",
        "policy",
        *(f"{h} hop{'s' * (h != '1')}" for h in hops),
        "GRM",
        "reference right",
        "solvable",
    ):
        made.add_column(name, justify="right")
    for number, world in enumerate(measured, 1):
        by_hops = [f"{world['by_hops'][h]['accuracy']:.3f}" if h in world["by_hops"] else "-" for h in hops]
        shares = [f"{world[key]:.3f}" for key in ("grm_accuracy", "reference_right", "solvable_share")]
        made.add_row(str(world.get("world", number)), f"{world['policy_accuracy']:.3f}", *by_hops, *shares)
    stdout().print(made)
