"""Configuration is data: the tables filled from a recipe's TOML and `--set key=value`, unknown keys refused."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from aslfast.config.algorithms import algorithm_names, with_algorithm
from aslfast.config.schema import CHOICES, RunConfig
from aslfast.errors import UserError
from aslfast.rewards import JUDGED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


def recipe_names() -> list[str]:
    return sorted(
        p.name[: -len(".toml")] for p in (files("aslfast.config") / "recipes").iterdir() if p.name.endswith(".toml")
    )


def load_recipe(name: str, overrides: Sequence[str] = (), seed: int | None = None) -> RunConfig:
    """A shipped recipe by name or a TOML file by path, with `key=value` overrides. Raises UserError.

    `extends` names the recipe whose settings stand below its own.
    """
    tree, place = _tree(name)
    tree = {"recipe": Path(name).stem if name.endswith(".toml") else name, **tree}
    while isinstance(extended := tree.pop("extends", None), str):
        tree = _over(_tree(extended)[0], tree)
    tree = with_algorithm(tree, tree.get("algorithm"), over=False)
    for override in overrides:
        _apply(tree, override)
        if override.partition("=")[0].strip() == "algorithm":
            tree = with_algorithm(tree, tree["algorithm"], over=True)
    if seed is not None:
        tree["seed"] = seed
    return from_tree(tree, place)


def _tree(name: str) -> tuple[dict[str, Any], str]:
    """What a recipe says, and how messages name it."""
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UserError(f"{path}: no such recipe file")
        text, place = _read(path), str(path)
    elif name in recipe_names():
        text, place = (
            (files("aslfast.config") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"),
            f"recipe {name}",
        )
    else:
        shipped = ", ".join(recipe_names())
        nearest = _nearest(name, recipe_names())
        raise UserError(f"unknown recipe {name!r}{nearest}; shipped: {shipped}, or give a .toml file")
    try:
        return tomllib.loads(text), place
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{place}: not valid TOML: {error}") from error


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of the recipe that another one extends, with what that one says itself."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        merged[key] = _over(below[key], value) if both else value
    return merged


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"{path}: the recipe cannot be read ({reason}); it must be a TOML text file") from error


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: write it as key=value, for example --set policy.steps=10")
    *tables, last = key.strip().split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {override}: {table!r} is a value, not a table")
    tree[last] = _parse_value(value.strip())


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def from_tree(tree: Mapping[str, Any], place: str) -> RunConfig:
    """A checked RunConfig. Raises UserError for keys that do not exist, wrong types and values out of range."""
    config = _fill(RunConfig, tree, "", place)
    for key, allowed in {**CHOICES, "algorithm": ("", *algorithm_names())}.items():
        found = _lookup(config, key)
        for value in found if isinstance(found, tuple) else (found,):
            if value not in allowed:
                nearest, choices = _nearest(str(value), allowed), ", ".join(filter(None, allowed))
                raise UserError(f"{place}: {key} is {value!r}{nearest}; use one of {choices}")
    _check_ranges(config, "", place)
    _check_together(config, place)
    return config


def _check_together(config: RunConfig, place: str) -> None:
    """What one key alone does not tell."""
    if config.loss.kind == "cispo" and config.loss.dual_clip:
        raise UserError(f"{place}: loss.dual_clip is of kind ppo alone; with loss.kind=cispo set it to 0")
    if config.policy.reward in JUDGED and not config.policy.verdicts:
        raise UserError(f"{place}: policy.verdicts is 0; the reward {config.policy.reward!r} needs 1 or more")
    if len(config.generator.keep) != 2 or list(config.generator.keep) != sorted(config.generator.keep):
        raise UserError(f"{place}: generator.keep is {list(config.generator.keep)}; write the lowest and highest share")
    if config.ranks.shard > 1 and config.sampler.kind != "sglang":
        what = f"ranks.shard is {config.ranks.shard}, but the {config.sampler.kind} sampler needs the whole base"
        raise UserError(f"{place}: {what}; set sampler.kind to sglang, which spreads it over the same cards")


def _lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def _fill(cls: type, tree: Mapping[str, Any], prefix: str, place: str) -> Any:
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            raise UserError(f"{place}: unknown key {prefix + key!r}{_nearest(key, list(hints), prefix)}")
        values[key] = _convert(hints[key], value, prefix + key, place)
    return cls(**values)


_TYPES = {int: "int (a whole number)", float: "float (a number)", bool: "bool (true or false)", str: "str (a text)"}

_EXAMPLES = {int: "[1, 2]", float: "[0.3, 0.8]", str: '["topic", "depth"]'}


def _convert(wanted: Any, value: Any, key: str, place: str) -> Any:
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        if not isinstance(value, Mapping):
            example = f"{key}.{dataclasses.fields(wanted)[0].name}"
            raise UserError(f"{place}: {key} is a table; set a key inside it, for example {example}")
        return _fill(wanted, value, f"{key}.", place)
    if isinstance(wanted, types.GenericAlias):  # tuple[int, ...]
        if isinstance(value, list) and value:
            return tuple(_convert(wanted.__args__[0], item, f"an entry of {key}", place) for item in value)
        raise UserError(f"{place}: {key} is {value!r}; it takes a list, for example {_EXAMPLES[wanted.__args__[0]]}")
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise UserError(f"{place}: {key} is {value!r}; it takes a value of type {_TYPES[wanted]}")
    return value


_MAY_BE_ZERO = {
    "seed", "threads", "format_weight", "kl_coef", "weight_decay", "clip_high", "rounds", "steps", "self_checks",
    "temperature", "retries", "tis_cap", "kl_every", "engine_restarts", "verdicts", "questions", "pool", "plateau",
    "probe", "min_entropy",
}  # fmt: skip
_AT_MOST_ONE = {
    "accept_share", "clip_low", "keep", "real_share", "max_gap", "max_true_gap", "min_agreement", "max_bias",
    "max_drop", "min_diversity", "min_new", "min_solvable", "min_finished", "max_repeated",
}  # fmt: skip


def _check_ranges(config: Any, prefix: str, place: str) -> None:
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            _check_ranges(value, f"{prefix}{item.name}.", place)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                wanted = _out_of_range(item.name, number)
                if wanted:
                    raise UserError(f"{place}: {prefix}{item.name} is {number}; it must be {wanted}")


def _out_of_range(name: str, number: float) -> str:
    """What the number must be; empty where it is."""
    if name == "dual_clip":
        return "" if number == 0 or 1 < number < math.inf else "0 (off) or above 1"
    if name == "gpu_memory":
        return "" if 0 < number < 1 else "above 0 and below 1"
    if name == "folds":
        return "" if number in (1, 2) else "1 or 2"
    if name in _AT_MOST_ONE:
        return "" if 0 <= number <= 1 else "between 0 and 1"
    if name in _MAY_BE_ZERO:
        return "" if 0 <= number < math.inf else "at least 0"
    if name == "max_length_ratio":
        return "" if 1 <= number < math.inf else "at least 1"
    return "" if 0 < number < math.inf else "above 0"


def _nearest(word: str, known: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, known, 1, 0.5)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


def to_toml(config: RunConfig) -> str:
    """The resolved configuration as TOML; `from_tree(tomllib.loads(text))` gives it back."""
    return "\n".join(_toml_lines(config, "")) + "\n"


def _toml_lines(table: Any, name: str) -> list[str]:
    """The table's own values, then its tables, each under its full name."""
    values = {item.name: getattr(table, item.name) for item in dataclasses.fields(table)}
    inner = {key: value for key, value in values.items() if dataclasses.is_dataclass(value)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if key not in inner]
    if name and lines:
        lines = ["", f"[{name}]", *lines]
    for key, value in inner.items():
        lines += _toml_lines(value, f"{name}.{key}" if name else key)
    return lines


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # a JSON string is a TOML basic string, but for what TOML wants escaped and JSON does not
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return repr(value)
