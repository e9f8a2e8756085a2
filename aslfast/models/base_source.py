"""Where the trainer's base comes from: files of its own, an engine's memory, or parts that several ranks hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from aslfast.config.schema import SamplerConfig
from aslfast.errors import UserError

BaseSource = Literal["loaded", "shared", "sharded"]
SHAREABLE = ("llama", "qwen2", "qwen3")  # model_types whose parameters are known to lie as rows of an engine's


def base_source(folder: Path, sampler: SamplerConfig, model_parallel_size: int) -> BaseSource:
    """Return the source for this base. Raise UserError where it cannot be split into `model_parallel_size` parts."""
    if model_parallel_size > 1:
        check_shardable(folder, model_parallel_size)
        return "sharded"
    if sampler.kind == "sglang" and not reason_not_shared(folder, sampler.share_base):
        return "shared"
    return "loaded"


def reason_not_shared(folder: Path, share_base: bool) -> str | None:
    """Return why the trainer and an engine do not share this base; None where they do."""
    if not share_base:
        return "sampler.share_base is false"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its config.json cannot be read"  # loading the model gives the details
    if config.get("model_type") not in SHAREABLE:
        return f"its model_type {config.get('model_type')} is none of {', '.join(SHAREABLE)}"
    return "its weights are quantised" if config.get("quantization_config") else None


def check_shardable(folder: Path, parts: int) -> None:
    """Raise UserError where this base cannot be split, or its attention not into so many parts."""
    key = "distributed.model_parallel_size"
    if reason := reason_not_shared(folder, share_base=True):
        raise UserError(f"{folder}: {key} cannot split this base: {reason}; set {key} to 1")
    heads = json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_attention_heads"]
    if heads % parts:
        raise UserError(f"{folder}: {key} is {parts}, the model has {heads} attention heads; take a divisor")
