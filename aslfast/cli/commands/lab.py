"""The options of `aslfast lab train-base` and `aslfast lab measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aslfast.cli.options import Json, Quiet, print_json

lab_app = typer.Typer(no_args_is_help=True, help="The lab: train and evaluate the tiny base that ships with aslfast.")


@lab_app.command("train-base", epilog="Example: aslfast lab train-base --out my-base --seed 1")
def train_base(
    out: Annotated[Path, typer.Option("--out", metavar="MODEL", help="New folder for the model.")],
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of everything random; the same seed gives the same model.")
    ] = 0,
    quiet: Quiet = False,
) -> None:
    """Train the tiny base from scratch, as the one that ships was trained."""
    from aslfast.cli import lab

    lab.train_base(out, seed, quiet)
    print(f"{out}: evaluate it with: aslfast lab measure {out}")


@lab_app.command("measure", epilog="Example: aslfast lab measure lab --worlds 3")
def measure(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, or lab for the base that ships.")
    ] = "lab",
    worlds: Annotated[int, typer.Option("--worlds", min=1, help="How many new worlds to evaluate on.")] = 3,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Evaluate a base at the three roles on new worlds, before any reinforcement learning."""
    from aslfast.cli import lab

    evaluated = lab.evaluate_base(model, worlds, quiet)
    print_json(evaluated) if as_json else lab.print_evaluated(evaluated)
