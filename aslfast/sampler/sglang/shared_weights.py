"""The trainer's half of sharing the base: views of the memory that the engine serves from.

engine:   weight_export.export_handles runs over its model and writes where each weight lies (JSON)
trainer:  open_export maps that memory; views_of cuts it into the Hugging Face model's parameters
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from aslfast.models.base_weights import CannotShare
from aslfast.sampler.sglang.engine_client import Engine, RequestRefused
from aslfast.sampler.sglang.weight_export import map_file

FUSED = {
    "q_proj": ("qkv_proj", ()),
    "k_proj": ("qkv_proj", ("q_proj",)),
    "v_proj": ("qkv_proj", ("q_proj", "k_proj")),
    "gate_proj": ("gate_up_proj", ()),
    "up_proj": ("gate_up_proj", ("gate_proj",)),
}  # Hugging Face's layer -> (SGLang's, those whose rows come before)
PADDED = ("embed_tokens", "lm_head")  # SGLang rounds the vocabulary up; the rows beyond it mean nothing


def engine_views(engine: Engine, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return each Hugging Face parameter as a view of the engine's memory. Raise CannotShare or EngineDied."""
    with tempfile.TemporaryDirectory(prefix="aslfast-base-") as folder:  # no other user can read it
        file = Path(folder) / "weights.json"
        try:
            engine.call("export_base", name=str(file))
        except RequestRefused as error:
            raise CannotShare(f"the engine does not export it: {error}") from error
        return views_of(shapes, open_export(file))


def open_export(file: Path) -> dict[str, Tensor]:
    """Return the engine's weights by the engine's names, in the engine's own memory. Raise CannotShare."""
    export = json.loads(file.read_text())
    try:
        storages = [_open_storage(handle) for handle in export["storages"]]
    except (OSError, RuntimeError) as error:
        raise CannotShare(f"its memory cannot be mapped: {' '.join(str(error).split())[:200]}") from error
    return {
        name: torch.empty(0, dtype=getattr(torch, place["dtype"]), device=storages[place["storage"]].device).set_(
            storages[place["storage"]], place["offset"], place["shape"], place["stride"]
        )
        for name, place in export["weights"].items()
    }


def _open_storage(handle: Mapping[str, Any]) -> UntypedStorage:
    if "file" in handle:
        return map_file(handle["file"], handle["bytes"])
    torch.cuda.init()
    return UntypedStorage._new_shared_cuda(
        _device_of(handle["gpu"]), bytes.fromhex(handle["handle"]), handle["bytes"], handle["start"],
        bytes.fromhex(handle["counter"]), handle["counter_start"], bytes.fromhex(handle["event"]),
        handle["synchronise"],
    )  # fmt: skip


def _device_of(uuid: str) -> int:
    """Return the number that a GPU has in this process."""
    for device in range(torch.cuda.device_count()):
        if str(torch.cuda.get_device_properties(device).uuid) == uuid:
            return device
    raise CannotShare(f"the engine's GPU {uuid} is not visible to the trainer")


def views_of(shapes: Mapping[str, torch.Size], engine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each Hugging Face parameter [shape] as a view of the engine's weights.

    Rows of SGLang's fused layers are those of q, k and v (gate and up) in this order. Raise CannotShare, naming the
    parameter that has no place.
    """
    views = {}
    for name, shape in shapes.items():
        place, first = _place(name, shapes)
        if place not in engine:
            raise CannotShare(f"{name}: the engine has no {place}")
        held = engine[place]
        exact = place == name and not any(part in PADDED for part in name.split("."))
        if held.shape[1:] != shape[1:] or len(held) < first + shape[0] or (exact and held.shape != shape):
            raise CannotShare(f"{name}: its shape is {tuple(shape)}, the engine's {place} has {tuple(held.shape)}")
        views[name] = held[first : first + shape[0]]
    return views


def _place(name: str, shapes: Mapping[str, torch.Size]) -> tuple[str, int]:
    """Return (the engine's name, first row) of a Hugging Face parameter."""
    for layer, (fused, before) in FUSED.items():
        if f".{layer}." in name:
            rows = (shapes[name.replace(f".{layer}.", f".{other}.")][0] for other in before)
            return name.replace(f".{layer}.", f".{fused}."), sum(rows)
    return name, 0
