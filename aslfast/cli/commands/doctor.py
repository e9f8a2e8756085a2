"""The options of `aslfast doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from aslfast.cli.options import Json


def doctor(
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", metavar="local|sglang", help="Also check this sampler against the trainer."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="Model for --sampler: a folder, or lab for the tiny base.")
    ] = "lab",
    as_json: Json = False,
) -> None:
    """Check this machine before a run: versions, devices, kernels, index; with --sampler also a sampler.

    Exit code 1 if a check fails; its line says what to do.
    """
    from aslfast.cli.doctor import doctor

    if not doctor(sampler, model, as_json):
        raise typer.Exit(1)
