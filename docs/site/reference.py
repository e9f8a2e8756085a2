"""The reference pages, from the code: every command with its options, every key of a recipe, the Python packages."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tokenize
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import typer

from aslfast.cli.main import app
from aslfast.config.schema import RunConfig

PYTHON = {  # what others import, by package
    "aslfast.index": "The index",
    "aslfast.retrieval.client": "A client of a retrieval server",
    "aslfast.core": "The types between stages",
    "aslfast.environment": "An environment of one's own",
    "aslfast.phase": "A phase of one's own",
    "aslfast_kernels": "The kernels",
}


def write_reference(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.md").write_text("\n".join(commands()), encoding="utf-8")
    (folder / "configuration.md").write_text("\n".join(configuration()), encoding="utf-8")
    (folder / "python.md").write_text("\n".join(packages()), encoding="utf-8")


def commands() -> Iterator[str]:
    yield "# Commands\n\nMade from the command line itself; `aslfast COMMAND --help` says the same.\n"
    yield from command("aslfast", typer.main.get_command(app), 2)


def command(name: str, one: Any, level: int) -> Iterator[str]:
    """Yield a command's section, and those of its commands."""
    parts = getattr(one, "commands", {})
    if name != "aslfast":
        yield f"{'#' * level} {name}\n"
    yield plain(one.help) + "\n"
    if not parts:
        yield from options(one)
    if one.epilog:
        yield re.sub(r"^Example: (.*)$", r"Example:\n\n```sh\n\1\n```\n", one.epilog)
    for part, below in parts.items():
        yield from command(f"{name} {part}", below, level + (name != "aslfast"))


def options(one: Any) -> Iterator[str]:
    yield "| option | default | meaning |\n|---|---|---|"
    for parameter in one.params:
        if parameter.name != "help":
            names = ", ".join(f"`{text}`" for text in named(parameter))
            yield f"| {names} | {default_of(parameter)} | {plain(parameter.help).replace('|', chr(92) + '|')} |"
    yield ""


def named(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return [parameter.metavar or parameter.name.upper()]
    return [*parameter.opts, *parameter.secondary_opts]


def default_of(parameter: Any) -> str:
    if parameter.required:
        return "required"
    known = parameter.default not in (None, False, "", (), []) and not callable(parameter.default)
    return f"`{parameter.default}`" if known else ""


def plain(text: str | None) -> str:
    """Return a help text without the marks of rich, as one paragraph for each of its own."""
    unmarked = re.sub(r"\[/?(bold|italic|dim)\]", "", inspect.cleandoc(text or ""))
    return unmarked.replace("<", "&lt;")


def configuration() -> Iterator[str]:
    yield "# Configuration\n\nEvery key of a recipe with its default, made from the dataclasses of `aslfast.config`."
    yield "A recipe is a TOML file; `--set table.key=value` changes a key; an unknown one is an error.\n"
    top = RunConfig()
    yield "## Without a table\n"
    yield from keys(top, "")
    for item in dataclasses.fields(top):
        table = getattr(top, item.name)
        if dataclasses.is_dataclass(table):
            yield f"## {item.name}\n"
            yield from described(type(table))
            yield from keys(table, f"{item.name}.")
        elif isinstance(table, Mapping) and table:
            yield from tables_of(item.name, table)


def tables_of(name: str, tables: Mapping[str, Any]) -> Iterator[str]:
    """Yield the section of tables that share their keys, such as roles.policy and roles.grm."""
    yield f"## {name}.NAME\n"
    some = next(iter(tables.values()))
    if dataclasses.is_dataclass(some):
        yield from described(type(some))
        yield from keys(some, f"{name}.NAME.")


def described(table: type) -> Iterator[str]:
    if table.__doc__ and not table.__doc__.startswith(f"{table.__name__}("):
        yield inspect.cleandoc(table.__doc__) + "\n"


def keys(table: Any, prefix: str) -> Iterator[str]:
    said = comments(type(table))
    yield "| key | default | meaning |\n|---|---|---|"
    for item in dataclasses.fields(table):
        value = getattr(table, item.name)
        if not dataclasses.is_dataclass(value) and not isinstance(value, Mapping):
            meaning = said.get(item.name, "").replace("|", "\\|").replace("<", "&lt;")
            yield f"| `{prefix}{item.name}` | `{shown(value)}` | {meaning} |"
    yield ""


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else f'"{value}"' if isinstance(value, str) else str(value)


def comments(table: type) -> dict[str, str]:
    """Return what the source says about each field: the comment behind it, or the lines of comments above."""
    found: dict[str, str] = {}
    above: list[str] = []
    name = ""
    for token in tokenize.generate_tokens(StringIO(inspect.cleandoc(inspect.getsource(table))).readline):
        text = token.string.lstrip("# ")
        field = re.match(r"\s*(\w+): ", token.line)
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            above.append(text)
        elif token.type == tokenize.COMMENT and name:
            found[name] = " ".join([*filter(None, [found.get(name)]), text])
        elif token.type == tokenize.NAME and field and field[1] == token.string and token.start[1] <= 4:
            name = token.string
            found[name], above = " ".join(above), []
    return found


def packages() -> Iterator[str]:
    yield "# Python\n\nWhat other programs import, made from the docstrings.\n"
    for package, title in PYTHON.items():
        yield f"## {title}\n\n::: {package}\n"
