"""One adapter's weights and optimizer state after a step: a safetensors file, or its bytes for another rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch.nn import Parameter

from aslfast.files.atomic import atomic_file
from aslfast.learner.learner import Learner

WEIGHT = "weight"


def save_learner(learner: Learner, role: str, path: Path) -> Path:
    """Write the weights, every tensor of AdamW (step, exp_avg, exp_avg_sq) as NAME/PARAMETER, and the version.

    All or nothing: 12 bytes a parameter in float32, 0.96 GB for 80 million. Raise OSError.
    """
    path.parent.mkdir(exist_ok=True)
    try:
        with atomic_file(path) as partial:
            save_file(_tensors(learner, role), partial, metadata={"role": role, "version": str(learner.version[role])})
    except SafetensorError as error:  # raised for a full disk, too
        raise OSError(None, str(error)) from error
    return path


def load_learner(learner: Learner, role: str, path: Path) -> None:
    """Restore, bit for bit, what `save_learner` wrote for a learner of the same model and configuration."""
    with safe_open(path, "pt") as file:
        _restore(learner, role, int(file.metadata()["version"]), list(file.keys()), file.get_tensor)


def learner_bytes(learner: Learner, role: str) -> bytes:
    """Return what `save_learner` writes, without the version."""
    return save(_tensors(learner, role))


def load_learner_bytes(learner: Learner, role: str, version: int, data: bytes) -> None:
    """Restore what `learner_bytes` returned for another rank's learner."""
    tensors = load(data)
    _restore(learner, role, version, list(tensors), tensors.__getitem__)


def _tensors(learner: Learner, role: str) -> dict[str, torch.Tensor]:
    return {f"{kind}/{name}": t for name, p in _parameters(learner, role) for kind, t in _state(learner, role, p)}


def _restore(learner: Learner, role: str, version: int, keys: list[str], tensor: Callable[[str], torch.Tensor]) -> None:
    learner.version[role] = version
    kinds = {key.split("/", 1)[0] for key in keys} - {WEIGHT}
    for name, parameter in _parameters(learner, role):
        with torch.no_grad():
            parameter.copy_(tensor(f"{WEIGHT}/{name}"))
        state = {kind: _moved(tensor(f"{kind}/{name}"), kind, parameter.device) for kind in kinds}
        learner.optimizers[role].state[parameter].update(state)


def _parameters(learner: Learner, role: str) -> list[tuple[str, Parameter]]:
    return [(name, p) for name, p in learner.model.named_parameters() if f".{role}." in name]


def _state(learner: Learner, role: str, parameter: Parameter) -> list[tuple[str, torch.Tensor]]:
    """Return the parameter and its optimizer state, which is empty before the first step."""
    state: dict[str, torch.Tensor] = learner.optimizers[role].state.get(parameter, {})
    return [(kind, t.detach().cpu().contiguous()) for kind, t in ((WEIGHT, parameter), *state.items())]


def _moved(stored: torch.Tensor, kind: str, device: torch.device) -> torch.Tensor:
    """Return the tensor on the device, except for the step count: torch keeps that on the CPU."""
    return stored if kind == "step" else stored.to(device)
