"""TOML in and out: reading on every Python that aslfast runs on, and writing a resolved configuration."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

Tree = dict[str, Any]  # a TOML document: the edge where types begin
TOMLDecodeError = tomllib.TOMLDecodeError


def parse(text: str) -> Tree:
    """Return the document that `text` is. Raises TOMLDecodeError, or another ValueError for what Python cannot hold."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_value(text: str) -> object:
    """Return the value that `text` stands for in TOML; a bare word is a string."""
    try:
        return parse(f"value = {text}")["value"]
    except ValueError:
        return text


def to_toml(config: object) -> str:
    """Return a configuration, a dataclass of dataclasses, as TOML that `aslfast.config.from_tree` reads back."""
    return "\n".join(_lines(config, "")) + "\n"


def _lines(table: Any, name: str) -> list[str]:
    """Return the table's own values, then its tables, each under its full name."""
    values = items_of(table)
    inner = {key: value for key, value in values.items() if is_table(value)}
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if key not in inner]
    if name and lines:
        lines = ["", f"[{name}]", *lines]
    for key, value in inner.items():
        lines += _lines(value, f"{name}.{key}" if name else key)
    return lines


def tree_of(config: object) -> Tree:
    """Return what a configuration says as a tree that `aslfast.config.from_tree` reads back."""
    values = items_of(config)
    return {key: tree_of(value) if is_table(value) else _plain(value) for key, value in values.items()}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def is_table(value: object) -> bool:
    """Return whether a value of a configuration is a table of its own."""
    return dataclasses.is_dataclass(value) or isinstance(value, Mapping)


def items_of(table: Any) -> dict[str, Any]:
    """Return what a table of a configuration holds: a dataclass by its fields, a mapping by its keys."""
    if isinstance(table, Mapping):
        return dict(table)
    return {item.name: getattr(table, item.name) for item in dataclasses.fields(table)}


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # a JSON string is a TOML basic string, but for what TOML wants escaped and JSON does not
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)
