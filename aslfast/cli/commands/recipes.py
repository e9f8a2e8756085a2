"""`aslfast recipes`: the recipes that ship with aslfast. It needs nothing but the configuration."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import Annotated

import typer

from aslfast.cli.options import Json, print_json


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="Print this recipe in full, as TOML with all defaults.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the recipes that ship with aslfast, or print one in full."""
    from aslfast.config import load_recipe, recipe_names, to_toml

    if name is not None:
        config = load_recipe(name)
        print_json(asdict(config)) if as_json else print(to_toml(config), end="")
        return
    summaries = {shipped: summary(shipped) for shipped in recipe_names()}
    if as_json:
        print_json({"recipes": [{"name": shipped, "summary": text} for shipped, text in summaries.items()]})
    else:
        _print_summaries(summaries)


def summary(name: str) -> str:
    """Return the first sentence of the comment at the head of a shipped recipe."""
    from aslfast.config.load import RECIPES

    lines = (RECIPES / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    sentence, end, _ = " ".join(line.lstrip("# ") for line in comment).partition(". ")
    return sentence + end.strip()


def _print_summaries(summaries: dict[str, str]) -> None:
    from rich.table import Table

    from aslfast.cli.progress import stdout

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in summaries.items():
        table.add_row(name, text)
    stdout().print(table, markup=False)
