"""Configuration is data: frozen dataclasses filled from a recipe's TOML and `--set key=value`, unknown keys refused."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from aslfast.algorithms import algorithm_names, with_algorithm
from aslfast.errors import UserError
from aslfast.learner import LearnerConfig
from aslfast.loss import LossConfig
from aslfast.rewards import GENERATOR_REWARDS, GRM_REWARDS, JUDGED, LABELS, POLICY_REWARDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

CHOICES = {
    "model.device": ("auto", "cpu", "cuda"),
    "model.dtype": ("float32", "bfloat16", "float16"),
    "model.prompts": ("compact", "full"),
    "sampler.kind": ("local", "sglang"),
    "learner.attention": ("auto", "flash", "flex", "sdpa"),
    "learner.share_prefix": ("auto", "always", "never"),
    "learner.checkpointing": ("none", "layers", "selective"),
    "loss.kind": ("ppo", "cispo"),
    "loss.ratio_level": ("token", "sequence"),
    "loss.kl_estimator": ("k3", "k2"),
    "loss.aggregate": ("token_mean", "sequence_mean", "constant"),
    "advantage.baseline": ("mean", "leave_one_out", "none"),
    "advantage.scale": ("group", "batch", "whitened", "none"),
    "generator.reward": tuple(GENERATOR_REWARDS),
    "grm.label": tuple(LABELS),
    "grm.variant": tuple(GRM_REWARDS),
    "policy.reward": tuple(POLICY_REWARDS),
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    path: str = ""  # model folder; "lab": the tiny base that ships with aslfast
    dtype: str = "float32"
    device: str = "auto"  # "auto": the GPU where there is one, else the CPU
    prompts: str = "full"  # prompt set


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What to learn in and to measure on. With `lab` true both come from the lab and the paths stay empty."""

    lab: bool = False
    index: str = ""  # a folder, or http://host:port of a server (aslfast index serve)
    topics: str = ""  # text file, a topic a line; "general": the 73 that ship with aslfast
    eval_questions: str = ""  # Parquet or JSONL
    eval_index: str = ""  # empty: the same as index
    eval_count: int = 300


@dataclass(frozen=True, slots=True)
class ToolConfig:
    top_k: int = 3
    max_passage_chars: int = 2000
    timeout_s: float = 30.0  # of one attempt to reach an index by URL
    retries: int = 5  # attempts after the first
    gone_after_s: float = 60.0  # of nothing but failed calls: the run stops


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    kind: str = "local"
    temperature: float = 1.0  # of sampling; the learner scales its log-probs by it too
    max_rows: int = 128  # requests in one batch
    max_turns: int = 9
    max_new_tokens: int = 2048  # a turn
    max_context: int = 10240  # tokens of a trajectory
    # the rest is of kind "sglang": docs/sglang.md
    engine_timeout_s: float = 120.0  # without progress while requests run: the engine hangs, and is started again
    engine_restarts: int = 3  # in one run; then it ends
    gpu_memory: float = 0.5  # share of the GPU for the engine: base, adapters, keys and values
    radix_cache: bool = True  # reuse the keys and values of common prefixes
    deterministic: bool = False  # SGLang's batch-invariant kernels on a GPU: slower
    share_base: bool = True  # one copy of the base for engine and trainer


@dataclass(frozen=True, slots=True)
class LoraConfig:
    rank: int = 32
    alpha: float = 64.0


@dataclass(frozen=True, slots=True)
class RoleConfig:
    init_adapter: str = ""  # PEFT adapter folder that the role starts from; empty: a fresh adapter, the base itself


@dataclass(frozen=True, slots=True)
class RolesConfig:
    generator: RoleConfig = field(default_factory=RoleConfig)
    grm: RoleConfig = field(default_factory=RoleConfig)
    policy: RoleConfig = field(default_factory=RoleConfig)


@dataclass(frozen=True, slots=True)
class AdvantageConfig:
    """The formulas are in aslfast_kernels.group_advantage; "whitened" in aslfast.advantage."""

    baseline: str = "mean"
    scale: str = "group"
    drop_flat: bool = True  # leave out groups of one reward (DAPO); False: they count in the loss's mean


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    steps: int = 10  # optimizer steps a round
    tasks: int = 8  # tasks a step
    samples: int = 4  # questions a task: the group
    attempts: int = 10  # of the policy at a question, each judged
    self_checks: int = 5  # judgements of the generator's own answer
    accept_share: float = 0.8  # of the self checks that must accept
    hops: tuple[int, ...] = (1, 2, 3)  # asked for in turn
    reward: str = "entropy_bits"  # a name of rewards/generator.py
    learn: bool = True


@dataclass(frozen=True, slots=True)
class GrmConfig:
    steps: int = 10
    tasks: int = 16
    samples: int = 8
    label: str = "consensus"  # where labels come from: see rewards/labels.py
    variant: str = "tool"  # of the judge's prompt and reward: see rewards/grm.py
    share_verdicts: bool = False  # equal answers to a question share their verdicts: see judging
    learn: bool = True


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    steps: int = 20
    tasks: int = 16
    samples: int = 8
    verdicts: int = 1  # judgements of an answer; may be 0 where a rule rewards it
    reward: str = "majority"  # of the verdicts; or a rule's: see rewards/policy.py
    learn: bool = True


@dataclass(frozen=True, slots=True)
class RanksConfig:
    """Of a run that torchrun starts: docs/cluster.md."""

    timeout_s: float = 60.0  # of silence of a rank, then the others end; a rank that dies is noticed at once


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The whole resolved configuration of a run."""

    recipe: str = ""
    algorithm: str = ""  # its settings stand in `loss` and `advantage`: see aslfast.algorithms
    seed: int = 0
    rounds: int = 3
    threads: int = 0  # of torch on the CPU; 0: as torch chooses
    format_weight: float = 1.0  # of the format reward of every role
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tool: ToolConfig = field(default_factory=ToolConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    roles: RolesConfig = field(default_factory=RolesConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    grm: GrmConfig = field(default_factory=GrmConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    ranks: RanksConfig = field(default_factory=RanksConfig)


def recipe_names() -> list[str]:
    return sorted(p.name[: -len(".toml")] for p in (files("aslfast") / "recipes").iterdir() if p.name.endswith(".toml"))


def load_recipe(name: str, overrides: Sequence[str] = (), seed: int | None = None) -> RunConfig:
    """A shipped recipe by name or a TOML file by path, with `key=value` overrides. Raises UserError."""
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UserError(f"{path}: no such recipe file")
        text, place = _read(path), str(path)
    elif name in recipe_names():
        text, place = (files("aslfast") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"), f"recipe {name}"
    else:
        shipped = ", ".join(recipe_names())
        nearest = _nearest(name, recipe_names())
        raise UserError(f"unknown recipe {name!r}{nearest}; shipped: {shipped}, or give a .toml file")
    try:
        tree: dict[str, Any] = {"recipe": path.stem if path.suffix == ".toml" else name, **tomllib.loads(text)}
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{place}: not valid TOML: {error}") from error
    tree = with_algorithm(tree, tree.get("algorithm"), over=False)
    for override in overrides:
        _apply(tree, override)
        if override.partition("=")[0].strip() == "algorithm":
            tree = with_algorithm(tree, tree["algorithm"], over=True)
    if seed is not None:
        tree["seed"] = seed
    return from_tree(tree, place)


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
        value = _lookup(config, key)
        if value not in allowed:
            nearest, choices = _nearest(str(value), allowed), ", ".join(filter(None, allowed))
            raise UserError(f"{place}: {key} is {value!r}{nearest}; use one of {choices}")
    _check_ranges(config, "", place)
    if config.loss.kind == "cispo" and config.loss.dual_clip:
        raise UserError(f"{place}: loss.dual_clip is of kind ppo alone; with loss.kind=cispo set it to 0")
    if config.policy.reward in JUDGED and not config.policy.verdicts:
        raise UserError(f"{place}: policy.verdicts is 0; the reward {config.policy.reward!r} needs 1 or more")
    return config


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


def _convert(wanted: Any, value: Any, key: str, place: str) -> Any:
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        if not isinstance(value, Mapping):
            example = f"{key}.{dataclasses.fields(wanted)[0].name}"
            raise UserError(f"{place}: {key} is a table; set a key inside it, for example {example}")
        return _fill(wanted, value, f"{key}.", place)
    if isinstance(wanted, types.GenericAlias):  # tuple[int, ...]
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            return tuple(value)
        raise UserError(f"{place}: {key} is {value!r}; it takes a list of whole numbers, for example [1, 2]")
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise UserError(f"{place}: {key} is {value!r}; it takes a value of type {_TYPES[wanted]}")
    return value


_MAY_BE_ZERO = {
    "seed", "threads", "format_weight", "kl_coef", "weight_decay", "clip_high", "rounds", "steps", "self_checks",
    "temperature", "retries", "tis_cap", "kl_every", "engine_restarts", "verdicts",
}  # fmt: skip


_AT_MOST_ONE = {"accept_share", "clip_low"}


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
    if name in _AT_MOST_ONE:
        return "" if 0 <= number <= 1 else "between 0 and 1"
    if name in _MAY_BE_ZERO:
        return "" if 0 <= number < math.inf else "at least 0"
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
        return "[" + ", ".join(map(str, value)) + "]"
    return repr(value)
