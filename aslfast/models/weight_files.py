"""The safetensors files of a model folder, read tensor by tensor and row by row."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from types import EllipsisType
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor


class TensorSlice(Protocol):
    """A tensor in a file, of which rows can be read."""

    def get_shape(self) -> list[int]: ...

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor: ...


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

    def n_parameters(self) -> int:
        """Return how many numbers all tensors hold."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def sha256(self) -> str:
        """Return the SHA-256 of all weights, hexadecimal: of each tensor in the order of the names a line
        "name dtype [shape]", then its bytes. How the files are split and what else they say does not count.
        """
        digest = hashlib.sha256()
        for name in sorted(self._tensors):
            weight = self._tensors[name][...]
            dtype = str(weight.dtype).removeprefix("torch.")
            digest.update(f"{name} {dtype} {list(weight.shape)}\n".encode())
            digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def differs(self, name: str, weight: Tensor) -> bool:
        """Return whether the first, middle or last row differs, in the weight's own dtype."""
        rows = self._tensors.get(name)
        return rows is None or any(
            not torch.equal(rows[i : i + 1].to(weight.dtype), weight[i : i + 1].cpu())
            for i in (0, len(weight) // 2, len(weight) - 1)
        )
