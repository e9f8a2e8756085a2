"""The options of `aslfast train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aslfast.cli.options import Json, Quiet, Seed, Set
from aslfast.errors import UserError


# one parameter an option: typer reads the signature
def train(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="NAME|FILE", help="Name of a shipped recipe, or a .toml file.", show_default="tiny"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="New folder for the run.")] = None,
    seed: Seed = None,
    set_: Set = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Resume a run that ended early, from its last step."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and its work; write nothing.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train the three roles, round after round, into a new folder RUN, and print how they improved."""
    from aslfast.cli.train import print_plan, resume_run, train_run
    from aslfast.config import load_recipe

    if resume is not None:
        given = {"--recipe": recipe, "--out": out, "--seed": seed, "--set": set_, "--dry-run": dry_run or None}
        if other := next((name for name, value in given.items() if value is not None), None):
            raise UserError(
                f"train: {other} cannot be combined with --resume; leave it out (the run keeps its own config.toml), "
                "or start a new run"
            )
        resume_run(resume, quiet, as_json)
        return
    config = load_recipe(recipe or "tiny", set_ or (), seed)
    if dry_run:
        print_plan(config, as_json)
    elif out is None:
        raise UserError("train: --out is missing; name a new folder for the run, for example --out runs/first")
    else:
        train_run(config, out, quiet, as_json)
