"""The safetensors files of a model folder, read tensor by tensor and row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor


class TensorSlice(Protocol):
    """A tensor in a file, of which rows can be read."""

    def get_shape(self) -> list[int]: ...

    def __getitem__(self, rows: slice) -> Tensor: ...


class WeightFiles:
    """The tensors of a model folder's safetensors files. All methods raise OSError or SafetensorError."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
        self._tensors: dict[str, TensorSlice] = {}
        for name in sorted(names):
            file = safe_open(folder / name, "pt")
            self._tensors |= {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  # no mapping

    def shapes(self) -> dict[str, list[int]]:
        """Return every tensor's shape; no data is read."""
        return {name: tensor.get_shape() for name, tensor in self._tensors.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the rows [start, stop) of a tensor; no others are read."""
        return self._tensors[name][start:stop]

    def differs(self, name: str, weight: Tensor) -> bool:
        """Return whether the first, middle or last row differs, in the weight's own dtype."""
        rows = self._tensors.get(name)
        return rows is None or any(
            not torch.equal(rows[i : i + 1].to(weight.dtype), weight[i : i + 1].cpu())
            for i in (0, len(weight) // 2, len(weight) - 1)
        )
