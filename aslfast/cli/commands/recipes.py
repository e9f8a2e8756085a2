"""`aslfast recipes`: the recipes that ship with aslfast. It needs nothing but the configuration."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from aslfast.cli.options import Json, print_json

if TYPE_CHECKING:
    from aslfast.config.checks.about import About

WIDTH = 110  # of the explanation


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|FILE]", help="Explain this recipe, and print it as TOML with all defaults."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the recipes that ship with aslfast, or explain one and print it in full."""
    from aslfast.config import about_recipe, load_recipe, recipe_names, to_toml

    if name is not None:
        config, about = load_recipe(name), about_recipe(name)
        if as_json:
            print_json({**asdict(config), "about": asdict(about)})
        else:
            print("".join(f"# {line}".rstrip() + "\n" for line in explained(config.recipe, about)), end="")
            print(to_toml(config), end="")
        return
    listed = {shipped: about_recipe(shipped) for shipped in recipe_names()}
    if as_json:
        print_json({"recipes": [_row(shipped, about) for shipped, about in listed.items()]})
    else:
        _print_list(listed)


def explained(name: str, about: About) -> Iterator[str]:
    """Yield the lines of an explanation: what it is, who plays, the flow of acts, rewards, deviations."""
    from aslfast.config.checks.about import NEEDS

    yield from textwrap.wrap(f"{name}: {about.line}", WIDTH)
    yield from _titled("Paper", [about.paper] if about.paper else [])
    yield from _titled("Needs", [NEEDS[need] for need in about.needs])
    yield from _titled("Roles", _named(about.roles))
    yield from _titled("A step", [f"{number}. {act}" for number, act in enumerate(about.flow, 1)])
    yield from _titled("Rewards", _named(about.rewards))
    yield from _titled("We differ", [f"{number}. {how}" for number, how in enumerate(about.deviations, 1)])
    yield ""


def _titled(title: str, texts: Iterable[str]) -> Iterator[str]:
    lines = [line for text in texts for line in textwrap.wrap(text, WIDTH - 4, subsequent_indent="   ")]
    if lines:
        yield from ("", title, *(f"  {line}" for line in lines))


def _named(texts: Mapping[str, str]) -> list[str]:
    return [f"{name}: {text}" for name, text in texts.items()]


def _row(name: str, about: About) -> dict[str, object]:
    return {
        "name": name, "summary": about.line, "paper": about.paper, "roles": list(about.roles),
        "needs": list(about.needs),
    }  # fmt: skip


def _print_list(listed: Mapping[str, About]) -> None:
    from rich.table import Table
    from rich.text import Text

    from aslfast.cli.progress import stdout

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, about in listed.items():
        table.add_row(name, Text(about.line).append(f" {_in_short(about)}", style="dim"))
    stdout().print(table)


def _in_short(about: About) -> str:
    """Return the paper, the roles and what a recipe needs, in brackets."""
    needs = f"needs {', '.join(about.needs)}" if about.needs else ""
    return f"({'; '.join(part for part in (about.paper, ', '.join(about.roles), needs) if part)})"
