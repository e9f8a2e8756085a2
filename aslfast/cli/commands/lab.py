"""`aslfast lab train-base` and `aslfast lab measure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from aslfast.cli.options import Json, Quiet, print_json
from aslfast.limits import MOST_SEED, MOST_WORLDS

FIRST_WORLD = 1001  # far from the seeds that runs use
World = Annotated[
    int, typer.Option("--world", min=1, max=2, help="1: one spelling of each answer; 2: several, one to four hops.")
]
lab_app = typer.Typer(no_args_is_help=True, help="The lab: train and evaluate the tiny base that ships with aslfast.")


@lab_app.command("train-base", epilog="Example: aslfast lab train-base --out my-base --seed 1")
def train_base(
    out: Annotated[Path, typer.Option("--out", metavar="MODEL", help="New folder for the model.")],
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MOST_SEED, help="Random seed; the same seed gives the same model.")
    ] = 0,
    world: World = 1,
    quiet: Quiet = False,
) -> None:
    """Train a tiny base from scratch, in the same way as the one that ships."""
    from aslfast.cli.progress import Meter, quiet_libraries
    from aslfast.lab import pretrain
    from aslfast.lab.world2.curriculum import COURSE2

    quiet_libraries()
    with Meter("train-base", None, "tokens", quiet) as meter:

        def report(stage: str, done: int, total: int, loss: float) -> None:
            meter.total = total
            meter.move_to(done, note=f"{stage}, loss {loss:.2f}")

        pretrain.train_base(out, seed, report, COURSE2 if world == 2 else pretrain.COURSE)
    print(f"{out}: evaluate it with: aslfast lab measure {out}" + " --world 2" * (world == 2))


@lab_app.command("measure", epilog="Example: aslfast lab measure lab --worlds 3")
def measure(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, or lab or lab2 for a tiny base.")
    ] = "lab",
    worlds: Annotated[
        int, typer.Option("--worlds", min=1, max=MOST_WORLDS, help="How many new worlds to evaluate on.")
    ] = 3,
    world: World = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Evaluate a base model in the three roles on new worlds, before any reinforcement learning."""
    from aslfast.cli.progress import Meter, quiet_libraries
    from aslfast.trainer.lab_evaluation import evaluate_base

    quiet_libraries()
    scores: list[dict[str, Any]] = []
    with Meter("measure", worlds, "worlds", quiet) as meter:
        for seed in range(FIRST_WORLD, FIRST_WORLD + worlds):
            scores += evaluate_base(model, [seed], "tiny2" if world == 2 else "tiny")
            meter.advance()
    print_json(scores) if as_json else print_scores(scores)


def print_scores(scores: Sequence[Mapping[str, Any]]) -> None:
    """Print the scores of a base as a table, one row a world."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from aslfast.cli.progress import stdout

    hops = sorted({name for world in scores for name in world["by_hops"]})
    by_hops = [f"{h} hop{'s' * (h != '1')}" for h in hops]
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("world", "policy", *by_hops, "GRM", "reference right", "solvable"):
        made.add_column(name, justify="right")
    for number, world in enumerate(scores, 1):
        accuracies = [f"{world['by_hops'][h]['accuracy']:.3f}" if h in world["by_hops"] else "-" for h in hops]
        rates = [f"{world[key]:.3f}" for key in ("grm_accuracy", "reference_right", "solvable_share")]
        made.add_row(str(world.get("world", number)), f"{world['policy_accuracy']:.3f}", *accuracies, *rates)
    stdout().print(made)
