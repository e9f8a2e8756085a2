"""The configuration of a step: the recipe's, its schedules', and over both what was set during the run.

It is a function of the recipe, the step and the committed settings alone, so it is the same on every rank and after a
resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from typing import TypeAlias

from aslfast.config.changes import settings
from aslfast.config.schedules.table import At, ScheduleConfig, value_at
from aslfast.config.schema import RunConfig
from aslfast.config.toml import Tree, tree_of
from aslfast.config.validate import Origin, nearest, read_tree
from aslfast.errors import UserError
from aslfast.plugins import is_import_path

Setting: TypeAlias = float | int | bool | str  # a value that JSON can hold
Settings: TypeAlias = Mapping[str, Setting]  # by key

# All else shapes the run's files, the model, the tools or the plan, or is read once, when a run starts.
MAY_VARY = (
    "learner.learning_rate", "learner.weight_decay", "learner.grad_clip", "loss.*", "advantage.*", "format_weight",
    "sampler.temperature", "sampler.max_turns", "sampler.max_new_tokens",
    "generator.prompts_per_step", "generator.group_size", "generator.rollouts_per_question", "generator.self_checks",
    "generator.min_acceptance", "grm.prompts_per_step", "grm.group_size", "grm.gold_label_fraction",
    "policy.prompts_per_step", "policy.group_size", "policy.verdicts_per_answer", "policy.max_questions",
    "roles.*.temperature", "roles.*.max_turns", "roles.*.max_new_tokens", "roles.*.loss.*", "roles.*.advantage.*",
    "own_phase.*.options.*",
)  # fmt: skip
NAMES_CODE = ("*advantage.group_by", "*advantage.rescale")  # of which a run has checksums


def settings_at(config: RunConfig, at: At, given: Settings) -> dict[str, Setting]:
    """Return what differs from the recipe at a step, or may: the values of the schedules, and over them those given.

    The values of a curve are rounded where the recipe's own is whole.
    """
    known = settings(config) if config.schedule else {}
    scheduled: dict[str, Setting] = {}
    for key, schedule in config.schedule.items():
        own, value = known.get(key, known.get(".".join(key.split(".")[2:]))), value_at(schedule, at, config.rounds)
        whole = isinstance(own, int) and not isinstance(own, bool)
        scheduled[key] = round(value) if whole and (schedule.values or value.is_integer()) else value
    return {**scheduled, **given}


def with_settings(config: RunConfig, values: Settings, names: Mapping[str, str] | None = None) -> RunConfig:
    """Return the configuration with these values in place of its own.

    names: what an error calls the origin of a key. Raise UserError for what a recipe could not say.
    """
    if not values:
        return config
    origins = {key: f"{config.recipe}: the value of {key}" for key in values} | dict(names or {})
    tree = tree_of(replace(config, schedule={}))
    for key, value in values.items():
        _put(tree, key, value, origins[key])
    changed = read_tree(tree, config.recipe, origins)
    if "sampler.temperature" in values and not changed.sampler.temperature:
        what = "sampler.temperature is 0, and greedy rollouts teach nothing; keep it above 0"
        raise UserError(f"{origins['sampler.temperature']}: {what}")
    return replace(changed, schedule=config.schedule)


def _put(tree: Tree, key: str, value: Setting, name: str) -> None:
    *tables, last = key.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise UserError(f"{name}: unknown key {key!r}; {table} is a value, not a table")
    tree[last] = value


def check_schedules(config: RunConfig, origin: Origin) -> None:
    """Raise UserError for a schedule of a key that may not vary, or whose values the key cannot have."""
    names = {key: f"{origin.of(f'schedule.{key}')}: schedule.{key}" for key in config.schedule}
    for key, schedule in config.schedule.items():
        check_may_vary(config, key, names[key])
        _check_shape(config, schedule, names[key])
    _try_all(config, {}, names)


def check_settings(config: RunConfig, given: Settings, key: str) -> None:
    """Raise UserError where the setting `key` of those given may not vary, or goes with no step of the schedules."""
    name = f"set {key} to {given[key]!r:.80}"
    check_may_vary(config, key, name)
    _try_all(config, given, dict.fromkeys([*config.schedule, *given], name))


def check_may_vary(config: RunConfig, key: str, name: str) -> None:
    """Raise UserError unless a key exists and may change during a run. name: what an error calls who wants it."""
    allowed = any(fnmatch(key, pattern) for pattern in MAY_VARY) and not any(fnmatch(key, p) for p in NAMES_CODE)
    role = key.split(".")[1] if key.startswith("roles.") and key.count(".") > 1 else None
    if role and role not in config.roles:
        raise UserError(f"{name}: unknown role {role!r}{nearest(role, list(config.roles))}")
    if not allowed and key not in settings(config):
        with_settings(config, {key: 0}, {key: name})  # an unknown key: as in a recipe
    if not allowed:
        what = "files, the model, the tools, the plan or checksums of a run depend on it"
        raise UserError(f"{name}: {key} may not vary: {what}; docs/recipes/schedules.md lists the keys that may")


def _try_all(config: RunConfig, given: Settings, names: Mapping[str, str]) -> None:
    """Raise UserError where a step with extreme values has some that a recipe could not have."""
    steps = (settings_at(config, at, given) for at in _corners(config))
    for values in {repr(values): values for values in steps}.values():
        with_settings(config, values, names)


def _check_shape(config: RunConfig, schedule: ScheduleConfig, name: str) -> None:
    if schedule.by_round:
        if schedule != ScheduleConfig(by_round=schedule.by_round):
            raise UserError(f"{name}: by_round stands alone; remove values, shape, over and warmup, or by_round")
        return
    if len(schedule.values) != 2:
        what = f"values is {list(schedule.values)}; write the first and the last value of a curve, or by_round"
        raise UserError(f"{name}: {what}")
    rounds = config.rounds if schedule.over == "run" else 1
    longest = max((rounds * steps for steps in _phase_steps(config)), default=0)
    if 0 < longest <= schedule.warmup:
        raise UserError(f"{name}: warmup is {schedule.warmup}, and no phase has more than {longest} steps; lower it")


def _phase_steps(config: RunConfig) -> list[int]:
    return [
        (config.own_phase_of(phase) if is_import_path(phase) else getattr(config, phase)).steps
        for phase in config.round_phases
    ]


def _corners(config: RunConfig) -> Iterator[At]:
    """Yield the steps at which a schedule has its extreme values, and those beside them.

    Between two of them every value lies between theirs. Those beside are for a key that may be 0 or well above it.
    """
    most = max([1, *(len(schedule.by_round) for schedule in config.schedule.values())])
    for steps in dict.fromkeys([steps for steps in _phase_steps(config) if steps] or [1]):
        yield from (At(number, 0, steps) for number in range(1, most + 1))
        for schedule in config.schedule.values():
            total, warm = max(1, config.rounds) * steps if schedule.over == "run" else steps, schedule.warmup
            places = (total - 1, warm, 0, total - 2, warm + 1, warm - 1, 1)  # the extremes first, for the error
            yield from (At(n // steps + 1, n % steps, steps) for n in places if 0 <= n < total)
