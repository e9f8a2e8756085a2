"""A tree of a recipe's settings becomes a checked RunConfig; every refusal names the key, the value and the remedy."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from datetime import date
from functools import cache
from typing import Any

from aslfast.config.algorithms import algorithm_names
from aslfast.config.checks.roles import check_roles
from aslfast.config.learning import AdvantageConfig, LossConfig, conflicts
from aslfast.config.renamed import RENAMED
from aslfast.config.roles import ROLES, default_tables
from aslfast.config.schedules.table import by_key
from aslfast.config.schema import SFT, RunConfig
from aslfast.errors import UserError
from aslfast.plugins import is_import_path
from aslfast.prompts.tool_calls import answers_search
from aslfast.rewards import ENVIRONMENT, JUDGED

NAME = re.compile(r"[A-Za-z_][\w-]{0,39}")
KINDS = {int: "int (a whole number)", float: "float (a number)", bool: "bool (true or false)", str: "str (a text)"}
EXAMPLES = {int: "[1, 2]", float: "[0.3, 0.8]", str: '["topic", "depth"]'}


_type_hints = cache(typing.get_type_hints)  # the tables are read once a step, where a recipe has schedules


@dataclass(frozen=True, slots=True)
class Origin:
    """What errors call the origin of a setting: its recipe, or the option that set it over the recipe."""

    recipe: str
    options: Mapping[str, str]  # key -> the option as it was written, such as "--set policy.steps=3"

    def of(self, *keys: str) -> str:
        """Return the origin of the first of these keys that an option set; of a table, if one set a key in it."""
        for key in keys:
            for name, option in self.options.items():
                if f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}."):
                    return option
        return self.recipe


def read_tree(tree: Mapping[str, Any], place: str, options: Mapping[str, str] | None = None) -> RunConfig:
    """Return the configuration that `tree` describes.

    What its schedules come to is not looked at yet. Errors name its origin: `place`, or for a key in `options` the
    option that set it. Raises UserError for keys that do not exist, wrong types, values out of range and values that
    exclude each other.
    """
    origin = Origin(place, options or {})
    config = _table(RunConfig, _with_schedules_by_key(_with_default_roles(tree)), "", origin)
    if config.algorithm:
        _check_choice(config.algorithm, algorithm_names(), "algorithm", origin)
    for name, role in config.roles.items():  # what stands over the tables `loss` and `advantage` is as they are
        _table(LossConfig, role.loss, f"roles.{name}.loss.", origin)
        _table(AdvantageConfig, role.advantage, f"roles.{name}.advantage.", origin)
    _check_together(config, origin)
    return config


def _with_default_roles(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tree with all of the default roles, and its keys over theirs, unless it has a role that they lack."""
    own, defaults = tree.get("roles", {}), default_tables()
    if not isinstance(own, Mapping) or any(name not in defaults for name in own):
        return tree
    if not all(isinstance(table, Mapping) for table in own.values()):
        return tree
    return {**tree, "roles": {name: {**table, **own.get(name, {})} for name, table in defaults.items()}}


def _with_schedules_by_key(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**tree, "schedule": by_key(tree["schedule"])} if "schedule" in tree else tree


def _table(cls: type, tree: Mapping[str, Any], prefix: str, origin: Origin) -> Any:
    fields = {item.name: item for item in dataclasses.fields(cls)}
    hints = _type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in fields:
            unknown = f"unknown key {prefix + key!r}{_suggestion(key, list(fields), prefix)}"
            raise UserError(f"{origin.of(prefix + key)}: {unknown}")
        values[key] = _value(hints[key], fields[key], value, prefix + key, origin)
    return cls(**values)


def _value(wanted: Any, item: Field[Any], value: object, key: str, origin: Origin) -> Any:
    if typing.get_origin(wanted) is Mapping:
        return _mapping(typing.get_args(wanted)[1], value, key, origin)
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        if isinstance(value, Mapping):
            return _table(wanted, value, f"{key}.", origin)
        example = f"{key}.{dataclasses.fields(wanted)[0].name}"
        raise UserError(f"{origin.of(key)}: {key} is a table; set a key inside it, for example {example}")
    if typing.get_origin(wanted) is not tuple:
        return _single(wanted, item, value, key, origin)
    kind = typing.get_args(wanted)[0]
    if isinstance(value, list) and (value or item.default == ()):
        return tuple(_single(kind, item, each, key, origin, f"an entry of {key}") for each in value)
    example = EXAMPLES[str if typing.get_origin(kind) is typing.Literal else kind]
    raise UserError(f"{origin.of(key)}: {key} is {value!r}; it takes a list, for example {example}")


def _mapping(wanted: Any, value: object, key: str, origin: Origin) -> dict[str, Any]:
    """Return tables by names of the recipe's own, or, where any value is wanted, what they hold."""
    if not isinstance(value, Mapping):
        raise UserError(f"{origin.of(key)}: {key} is a table; set a key inside it, for example {key}.name")
    for name in value:
        if not all(NAME.fullmatch(part) for part in (name.split(".") if key == "schedule" else [name])):
            raise UserError(f"{origin.of(key)}: {key}.{name:.80} is no name; use letters, digits, - and _, at most 40")
    if wanted is object:
        return {name: _own_value(inner, f"{key}.{name}", origin) for name, inner in value.items()}
    return {name: _table(wanted, _as_table(inner, f"{key}.{name}", origin), f"{key}.{name}.", origin)
            for name, inner in value.items()}  # fmt: skip


def _as_table(value: object, key: str, origin: Origin) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{origin.of(key)}: {key} is a table; set a key inside it")
    return value


def _own_value(value: object, key: str, origin: Origin) -> object:
    """Return a value of a table whose keys are not ours: a number, a text or true or false."""
    if not isinstance(value, bool | int | float | str) or (isinstance(value, str) and not _can_be_saved(value)):
        raise UserError(f"{origin.of(key)}: {key} is {value!r:.80}; it takes a number, a text, true or false")
    return value


def _single(wanted: Any, item: Field[Any], value: Any, key: str, origin: Origin, name: str = "") -> Any:
    """Return one value, not a list, in the wanted type. name: what an error of its type calls it."""
    choices = item.metadata.get("choices", ())
    kind = wanted
    if typing.get_origin(wanted) is typing.Literal:
        kind, choices = str, typing.get_args(wanted)
    if kind is float and type(value) is int and abs(value) < 1 << 1000:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{origin.of(key)}: {name or key} is {value!r}; it takes a value of type {KINDS[kind]}")
    if isinstance(value, str) and not _can_be_saved(value):
        raise UserError(f"{origin.of(key)}: {key} has a character that no file can hold ({value!r:.80}); remove it")
    importable = item.metadata.get("importable", False)
    if choices and not (importable and is_import_path(str(value))):
        _check_choice(str(value), choices, key, origin, " or module:name of your own" * importable)
    bounds = item.metadata.get("bounds")
    if bounds and value not in bounds:
        raise UserError(f"{origin.of(key)}: {key} is {value}; it must be {bounds}")
    return value


def _can_be_saved(text: str) -> bool:
    """Return whether a text is UTF-8 without a NUL: bytes of a command line that are not become half surrogates."""
    return "\0" not in text and text == text.encode("utf-8", "replace").decode("utf-8")


def _check_choice(value: str, choices: Sequence[str], key: str, origin: Origin, other: str = "") -> None:
    if value not in choices:
        known = ", ".join(choice or '""' for choice in choices)
        what = f"{key} is {value!r}{nearest(value, choices)}"
        raise UserError(f"{origin.of(key)}: {what}; use one of {known}{other}")


def _check_together(config: RunConfig, origin: Origin) -> None:
    """Raise UserError for what the types and bounds of the keys do not tell."""
    if config.model.prompt_date and not _is_date(config.model.prompt_date):
        what = f"model.prompt_date is {config.model.prompt_date!r}; write a date as 2026-01-31"
        raise UserError(f"{origin.of('model.prompt_date')}: {what}")
    if unknown := [name for name in config.tools if not _names_tool(name)]:
        known = 'use "search", module:function of your own, mcp:COMMAND, mcp:URL or model:ROLE'
        raise UserError(f"{origin.of('tools')}: an entry of tools is {unknown[0]!r:.80}; {known}")
    for keys, what in conflicts(config.loss, config.advantage):
        raise UserError(f"{origin.of(*keys)}: {what}")
    check_roles(config, origin.of)
    if config.policy.reward in JUDGED and not config.policy.verdicts_per_answer:
        needs = f"the reward {config.policy.reward!r} needs 1 or more"
        place = origin.of("policy.verdicts_per_answer", "policy.reward")
        raise UserError(f"{place}: policy.verdicts_per_answer is 0; {needs}")
    if config.policy.reward == ENVIRONMENT:
        _check_environment_reward(config, origin)
    if SFT in config.phases:
        _check_sft(config, origin)
    bounds = config.generator.pass_rate_range
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        what = f"generator.pass_rate_range is {list(bounds)}"
        place = origin.of("generator.pass_rate_range")
        raise UserError(f"{place}: {what}; write the lowest and the highest pass rate")
    size, kind = config.distributed.model_parallel_size, config.sampler.kind
    if size > 1 and kind != "sglang":
        what = f"distributed.model_parallel_size is {size}, but the {kind} sampler needs the whole base"
        place = origin.of("distributed.model_parallel_size", "sampler.kind")
        raise UserError(f"{place}: {what}; set sampler.kind to sglang, which spreads it over the same cards")


def _check_environment_reward(config: RunConfig, origin: Origin) -> None:
    if not config.environment:
        what = f"policy.reward is {ENVIRONMENT!r}, and environment is not set; set it to module:name of your own"
        raise UserError(f"{origin.of('policy.reward')}: {what}")
    if "generator" in config.phases and not config.policy.verdicts_per_answer:
        what = f"policy.verdicts_per_answer is 0, and the reward {ENVIRONMENT!r} says nothing of a generated question"
        place = origin.of("policy.verdicts_per_answer", "phases", "policy.reward")
        raise UserError(f'{place}: {what}; set it to 1, or phases to ["policy"]')


def _check_sft(config: RunConfig, origin: Origin) -> None:
    if SFT in config.phases[1:]:
        what = f'phases is {list(config.phases)}; "sft" comes once, before all others: it is in round 1 alone'
        raise UserError(f"{origin.of('phases')}: {what}")
    if config.sft.role == "grm" and config.grm.folds > 1:
        place = origin.of("sft.role", "grm.folds", "phases")
        raise UserError(f"{place}: sft.role is grm, and grm.folds makes two judges; fine-tune them with `aslfast sft`")
    if not config.sft.data and config.sft.role not in ROLES:
        what = f"sft.role is {config.sft.role}, and demonstrations can be made for {', '.join(ROLES)} alone"
        raise UserError(f"{origin.of('sft.role', 'phases')}: {what}; set sft.data to a file (docs/sft.md)")
    if not config.sft.data and (config.environment or config.tools != ("search",)):
        what = "sft.data is not set, and demonstrations can be made for the search tool alone, without an environment"
        raise UserError(f"{origin.of('phases', 'environment', 'tools')}: {what}; set it to a file (docs/sft.md)")


def _names_tool(name: str) -> bool:
    return answers_search(name) or (bool(name[4:].strip()) if name.startswith("mcp:") else is_import_path(name))


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text  # Python 3.11 reads other forms too
    except ValueError:
        return False


def _suggestion(key: str, known: Sequence[str], prefix: str) -> str:
    """Return the end of an error about an unknown key: the name that it has now, else the nearest known one."""
    if new := RENAMED.get(prefix + key):
        return f"; did you mean {new!r}? (renamed)"
    return nearest(key, known, prefix)


def nearest(word: str, known: Sequence[str], prefix: str = "") -> str:
    """Return the end of an error about an unknown word: the known word most like it, if any is."""
    close = difflib.get_close_matches(word, known, 1, 0.5)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""
