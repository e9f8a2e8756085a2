"""Adapters in bfloat16, half as large, in a folder that `aslfast eval` and `--cold-start` read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from aslfast.config import RunConfig, to_toml
from aslfast.config.schema import DataConfig
from aslfast.files.atomic import atomic_folder
from aslfast.files.jsonl import read_lines
from aslfast.models import lora
from aslfast.trainer.sft.folder import METRICS
from bench.shared.stamp import ROOT


def write_adapters(config: RunConfig, adapters: Mapping[str, Path], folder: Path) -> None:
    """Write the folder of a run that was played, not trained: config.toml and the adapters in bfloat16.

    The model is named as it is found from the repository's root. A folder that exists is replaced. Raise OSError.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    model = replace(config.model, path=_from_root(config.model.path))
    roles = {name: replace(role, init_adapter="") for name, role in config.roles.items()}
    played = replace(config, model=model, data=DataConfig(), roles=roles, threads=0)
    with atomic_folder(folder) as partial:
        (partial / "config.toml").write_text(to_toml(played), encoding="utf-8")
        for role, adapter in adapters.items():
            to_bfloat16(adapter, partial / "adapters" / role / f"v{_steps(adapter):04d}", model.path)


def to_bfloat16(adapter: Path, out: Path, model: str) -> None:
    """Write a PEFT adapter of the base `model` with its weights rounded to bfloat16. Raise OSError."""
    out.mkdir(parents=True)
    weights = {name: weight.to(torch.bfloat16) for name, weight in load_file(adapter / lora.WEIGHTS).items()}
    save_file(weights, out / lora.WEIGHTS, metadata={"format": "pt"})
    told = json.loads((adapter / lora.CONFIG).read_text(encoding="utf-8")) | {"base_model_name_or_path": model}
    (out / lora.CONFIG).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _steps(adapter: Path) -> int:
    """Return the optimizer steps behind an adapter: its version, or the lines of its fine-tuning."""
    if adapter.name[1:].isdecimal():
        return int(adapter.name[1:])
    return len(read_lines(adapter / METRICS))


def _from_root(place: str) -> str:
    """Return a folder relative to the repository's root where it lies below that; else as it is."""
    absolute = Path(place).resolve()
    below = place != "lab" and absolute.is_relative_to(ROOT)
    return os.fspath(absolute.relative_to(ROOT)) if below else place
