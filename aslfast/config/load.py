"""A recipe by name or path, with `key=value` overrides, becomes a RunConfig."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from aslfast.config.algorithms import with_algorithm
from aslfast.config.checks.about import About, read_about, told_with
from aslfast.config.schedules.effective import check_schedules
from aslfast.config.schema import RunConfig
from aslfast.config.toml import Tree, parse, parse_value
from aslfast.config.validate import Origin, nearest, read_tree
from aslfast.errors import UserError
from aslfast.files.text import read_text

if TYPE_CHECKING:
    from importlib.abc import Traversable

RECIPES = files("aslfast.config") / "recipes"
FOLDERS = (RECIPES, RECIPES / "systems")


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship with aslfast, in order."""
    return sorted(_shipped())


def _shipped() -> dict[str, Traversable]:
    """Return the files of the shipped recipes by name."""
    files_in = (path for folder in FOLDERS for path in folder.iterdir())
    return {path.name[: -len(".toml")]: path for path in files_in if path.name.endswith(".toml")}


def about_recipe(name: str) -> About:
    """Return what a recipe, shipped or a file, says of itself in its table [about]. Raise UserError."""
    tree, place = _read_tree(name)
    about = read_about(tree.get("about", {}), place)
    if not about.of:
        return about
    other, place = _read_tree(about.of)
    return told_with(about, read_about(other.get("about", {}), place))


def load_recipe(name: str, overrides: Sequence[str] = (), seed: int | None = None) -> RunConfig:
    """Return a shipped recipe by name or a TOML file by path, with `key=value` overrides. Raises UserError.

    `extends` names the recipe whose settings stand below its own.
    """
    tree, place = _read_tree(name)
    read_about(tree.pop("about", {}), place)
    tree = _extended({"recipe": Path(name).stem if name.endswith(".toml") else name, **tree}, place)
    tree = with_algorithm(tree, tree.get("algorithm"), over=False)
    options = {}
    for override in overrides:
        key = _apply(tree, override)
        options[key] = f"--set {override:.100}"
        if key == "algorithm":
            tree = with_algorithm(tree, tree["algorithm"], over=True)
    if seed is not None:
        tree["seed"], options["seed"] = seed, f"--seed {seed}"
    return from_tree(tree, place, options)


def from_tree(tree: Mapping[str, object], place: str, options: Mapping[str, str] | None = None) -> RunConfig:
    """Return the configuration that `tree` describes, its schedules tried. Raise UserError, as `read_tree` does."""
    config = read_tree(tree, place, options)
    check_schedules(config, Origin(place, options or {}))
    return config


def _extended(tree: Tree, place: str) -> Tree:
    """Return a recipe's tree over those of the recipes that it extends, one after the other."""
    seen = []
    while (extended := tree.pop("extends", None)) is not None:
        if not isinstance(extended, str) or extended in seen:
            raise UserError(f"{place}: extends is {extended!r}; name one recipe, which does not extend this one")
        seen.append(extended)
        below, _ = _read_tree(extended)
        below.pop("about", None)  # of that recipe alone
        tree = _merged(below, tree)
    return tree


def _read_tree(name: str) -> tuple[Tree, str]:
    """Return what a recipe says, and what errors call it."""
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UserError(f"{path}: no such recipe file")
        text, place = _read_text(path), str(path)
    elif file := _shipped().get(name):
        text, place = file.read_text(encoding="utf-8"), f"recipe {name}"
    else:
        shipped = ", ".join(recipe_names())
        suggestion = nearest(name, recipe_names())
        raise UserError(f"unknown recipe {name!r}{suggestion}; shipped: {shipped}, or give a .toml file")
    try:
        return parse(text), place
    except ValueError as error:
        raise UserError(f"{place}: not valid TOML: {error}") from error


def _merged(below: Mapping[str, object], above: Mapping[str, object]) -> Tree:
    """Return the tree of the recipe that another one extends, with what that one says itself."""
    merged = dict(below)
    for key, value in above.items():
        inner = below.get(key)
        merged[key] = _merged(inner, value) if isinstance(value, Mapping) and isinstance(inner, Mapping) else value
    return merged


def _read_text(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise UserError(f"{path}: the recipe cannot be read ({error.strerror}); it must be a TOML text file") from error


def _apply(tree: Tree, override: str) -> str:
    """Set the key of one `--set key=value` in the tree; return it."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: write it as key=value, for example --set policy.steps=10")
    *tables, last = key.strip().split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {override}: {table!r} is a value, not a table")
    tree[last] = parse_value(value.strip())
    return key.strip()
