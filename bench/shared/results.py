"""Result files: written with their stamp, read under today's names of their keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aslfast.config.renamed import RENAMED as RENAMED_SETTINGS
from aslfast.files.atomic import write_text

Result = Mapping[str, Any]

_RATES = {
    "live_tokens": "loss_tokens",
    "live_tokens_per_s": "loss_tokens_per_s",
    "share_of_product_rate": "matmul_utilization",
    "product_flops_per_s": "matmul_flops_per_s",
}
RENAMED: Mapping[str, Mapping[str, str]] = {  # by benchmark: a key in older files -> its name now
    "learner": {**_RATES, "checkpointing": "activation_checkpointing"},
    "round": _RATES,
    "soak": {
        "most": "limit",
        "generator_us_a_token": "generator_us_per_token",
        "grm_us_a_token": "grm_us_per_token",
        "policy_us_a_token": "policy_us_per_token",
    },
    "rollout": {
        "figures": "metrics",
        "rows": "max_running_requests",
        "rows_idle": "slots_idle",
        "tasks": "prompts_per_step",
        "samples": "group_size",
        "attempts": "rollouts_per_question",
        "radix off": "no prefix cache",
        "most_tokens": "max_tokens",
        "most_turns": "max_turns",
        "most_in_all": "max_total",
    },
    "sampler": {"rows": "sequences"},
    "claims": {"truth": "accuracy", "pool": "pool_questions"},
}


def read_result(file: Path) -> Result:
    """Return a result file, keys and settings of older files under their names of today."""
    result = json.loads(file.read_text(encoding="utf-8"))
    return _renamed(result, RENAMED.get(result["bench"], {}))


def _renamed(value: Any, renamed: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(item, renamed) for item in value]
    if isinstance(value, dict):
        items = {renamed.get(key, key): _renamed(item, renamed) for key, item in value.items()}
        return {key: list(map(_setting, item)) if key == "set" else item for key, item in items.items()}
    return value


def _setting(text: str) -> str:
    """Return an override of a recipe, "key=value", with the key of today."""
    key, equals, value = text.partition("=")
    return RENAMED_SETTINGS.get(key, key) + equals + value


def write_result(file: Path, result: Result, indent: int | None = 2) -> None:
    """Write a result file, whole at any moment, in a folder that is made if it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(result, indent=indent) + "\n")
