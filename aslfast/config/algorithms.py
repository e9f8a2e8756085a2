"""Algorithms as data: each is a file of [loss] and [advantage] settings, `recipes/algorithms/<name>.toml`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

Tree = dict[str, Any]


def algorithm_names() -> list[str]:
    return sorted(p.name[: -len(".toml")] for p in _folder().iterdir() if p.name.endswith(".toml"))


def settings_of(name: str) -> Tree:
    """The settings that make the algorithm: the same keys for each, so that one replaces another whole."""
    return tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))


def with_algorithm(tree: Mapping[str, Any], name: Any, over: bool) -> Tree:
    """A recipe's tree with the algorithm's settings laid over it, or under it: what the recipe says itself then stays.
    A name that does not exist, or a table that is none, is left for the check of the whole tree."""
    if name not in algorithm_names():
        return dict(tree)
    merged = dict(tree)
    for table, values in settings_of(name).items():
        own = tree.get(table, {})
        if isinstance(own, Mapping):
            merged[table] = {**own, **values} if over else {**values, **own}
    return merged


def _folder() -> Any:
    return files("aslfast.config") / "recipes" / "algorithms"
