"""Algorithms as data: each is a file of [loss] and [advantage] settings, `recipes/algorithms/<name>.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from aslfast.config.toml import Tree, parse

FOLDER = files("aslfast.config") / "recipes" / "algorithms"


def algorithm_names() -> list[str]:
    """Return the names of the shipped algorithms, in order."""
    return sorted(path.name[: -len(".toml")] for path in FOLDER.iterdir() if path.name.endswith(".toml"))


def settings_of(name: str) -> Tree:
    """Return the settings that make an algorithm: the same keys for each, so that one replaces another whole."""
    return parse((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def with_algorithm(tree: Mapping[str, object], name: object, over: bool) -> Tree:
    """Return a recipe's tree with the algorithm's settings laid over it (`over`) or under it.

    Laid under, what the recipe says itself stays. A name that does not exist, or a table that is none, is left for the
    check of the whole tree.
    """
    if not isinstance(name, str) or name not in algorithm_names():
        return dict(tree)
    merged = dict(tree)
    for table, values in settings_of(name).items():
        own = tree.get(table, {})
        if isinstance(own, Mapping):
            merged[table] = {**own, **values} if over else {**values, **own}
    return merged
