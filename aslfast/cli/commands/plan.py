"""The options of `aslfast plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from aslfast.cli.options import Json, Set


def plan(
    gpu: Annotated[
        str,
        typer.Option(
            "--gpu",
            metavar="SIZE|CARD",
            help="The GPU's memory, such as 80GB, or a card: h100, h200, a100, l40s, 4090.",
        ),
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME|FILE", help="Name of a shipped recipe, or a .toml file.")
    ] = "tiny",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL|NAME",
            help="Replace the recipe's model: a model folder (config.json is enough), or a known name: qwen2.5-7b.",
        ),
    ] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Divide a GPU's memory among the parts of a run, and print fitting settings; exit code 2 if it cannot fit."""
    from aslfast.cli.plan import show
    from aslfast.config import load_recipe

    show(load_recipe(recipe, set_ or ()), model, gpu, as_json)
