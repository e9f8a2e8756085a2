"""One role's adapter and optimizer as they stand after a step: a safetensors file, or its bytes for another rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch.nn import Parameter

from aslfast.files.atomic import atomic_file
from aslfast.learner.learner import Learner

WEIGHT = "weight"


def save_learner(learner: Learner, role: str, path: Path) -> Path:
    """Writes the weights, every tensor of AdamW (step, exp_avg, exp_avg_sq) as NAME/PARAMETER, and the version.

    Complete or not at all: 12 bytes a parameter in float32, 0.96 GB for 80 million. Raises OSError.
    """
    path.parent.mkdir(exist_ok=True)
    try:
        with atomic_file(path) as partial:
            save_file(_tensors(learner, role), partial, metadata={"role": role, "version": str(learner.version[role])})
    except SafetensorError as error:  # how it reports a full disk
        raise OSError(None, str(error)) from error
    return path


def load_learner(learner: Learner, role: str, path: Path) -> None:
    """Puts back, bit for bit, what `save_learner` wrote of a learner of the same model and configuration."""
    with safe_open(path, "pt") as file:
        _put(learner, role, int(file.metadata()["version"]), list(file.keys()), file.get_tensor)


def learner_bytes(learner: Learner, role: str) -> bytes:
    """What `save_learner` writes, but for the version."""
    return save(_tensors(learner, role))


def put_learner(learner: Learner, role: str, version: int, data: bytes) -> None:
    """Puts back what `learner_bytes` gave of another rank's learner."""
    tensors = load(data)
    _put(learner, role, version, list(tensors), tensors.__getitem__)


def _tensors(learner: Learner, role: str) -> dict[str, torch.Tensor]:
    return {f"{kind}/{name}": t for name, p in _parameters(learner, role) for kind, t in _state(learner, role, p)}


def _put(learner: Learner, role: str, version: int, keys: list[str], tensor: Callable[[str], torch.Tensor]) -> None:
    learner.version[role] = version
    kinds = {key.split("/", 1)[0] for key in keys} - {WEIGHT}
    for name, parameter in _parameters(learner, role):
        with torch.no_grad():
            parameter.copy_(tensor(f"{WEIGHT}/{name}"))
        state = {kind: _beside(parameter, kind, tensor(f"{kind}/{name}")) for kind in kinds}
        learner.optimizers[role].state[parameter].update(state)


def _parameters(learner: Learner, role: str) -> list[tuple[str, Parameter]]:
    return [(name, p) for name, p in learner.model.named_parameters() if f".{role}." in name]


def _state(learner: Learner, role: str, parameter: Parameter) -> list[tuple[str, torch.Tensor]]:
    """Nothing but the weight before the first step."""
    state: dict[str, Any] = learner.optimizers[role].state.get(parameter, {})
    return [(kind, t.detach().cpu().contiguous()) for kind, t in ((WEIGHT, parameter), *state.items())]


def _beside(parameter: Parameter, kind: str, stored: torch.Tensor) -> torch.Tensor:
    """On the parameter's device, but for the count of steps: torch keeps that on the CPU."""
    return stored if kind == "step" else stored.to(parameter.device)
