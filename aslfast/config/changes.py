"""What another configuration changes in a run that is resumed, and which of it may change: docs/runs.md lists it."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatch

from aslfast.config.schema import RunConfig
from aslfast.config.toml import is_table, items_of

# Numbers do not depend on these, or on the contents of the files alone, which have checksums of their own.
MAY_CHANGE = (
    "recipe", "rounds", "tracker", "monitor.*", "tool.timeout_s", "tool.retries", "tool.give_up_after_s",
    "tool.max_concurrent",
    "sampler.engine_timeout_s", "sampler.engine_restarts", "sampler.gpu_memory_fraction",
    "sampler.share_base", "learner.kl_every", "learner.max_skipped_steps",
    "distributed.timeout_s", "model.path", "data.index", "data.topics", "data.eval_questions", "data.eval_index",
    "data.labelled", "sft.data", "roles.*.init_adapter",
)  # fmt: skip
# These may change with the machine: the run is a valid one, but its last bits differ.
MAY_CHANGE_BITS = (
    "threads", "deterministic", "model.device", "sampler.max_running_requests", "sampler.radix_cache",
    "sampler.deterministic", "learner.micro_batch_tokens", "learner.attention", "learner.share_prefix",
    "learner.activation_checkpointing", "distributed.model_parallel_size",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigChange:
    """A key whose value is another one than before."""

    key: str
    before: object
    now: object
    bends: bool = False  # whether a schedule would have been another one with it

    @property
    def allowed(self) -> bool:
        """Whether a run may go on with it."""
        return _named(self.key, (*MAY_CHANGE, *MAY_CHANGE_BITS)) and not self.bends

    @property
    def changes_bits(self) -> bool:
        """Whether a run that goes on with it has other last bits."""
        return _named(self.key, MAY_CHANGE_BITS)


def config_changes(before: RunConfig, now: RunConfig) -> list[ConfigChange]:
    """Return what differs, in the order of the keys."""
    old, new = settings(before), settings(now)
    keys = dict.fromkeys([*old, *new])
    curves = any(schedule.over == "run" and schedule.values for schedule in before.schedule.values())
    return [
        ConfigChange(key, old.get(key), new.get(key), curves and key == "rounds")
        for key in keys
        if old.get(key) != new.get(key)
    ]


def settings(table: object, prefix: str = "") -> dict[str, object]:
    """Return the values of a configuration by their dotted keys."""
    found: dict[str, object] = {}
    for name, value in items_of(table).items():
        found |= settings(value, f"{prefix}{name}.") if is_table(value) else {prefix + name: value}
    return found


def _named(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)
