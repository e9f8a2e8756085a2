"""One copy of the base: the trainer's frozen weights are views of the memory that the engine serves from.

    engine:   export_handles runs over its model and writes where each weight lies (JSON)
    trainer:  open_export maps that memory; views_of cuts it into the Hugging Face model's parameters

On a CPU the engine moves its weights into one anonymous memory file, which the trainer maps through /proc; it is gone
with the last process that has it, however that process ends. On a GPU the memory stays where it is and its CUDA IPC
handles are passed on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, UntypedStorage

ALIGNMENT = 64  # bytes: what torch's own allocator gives on a CPU, and so what its kernels are used to
FUSED = {
    "q_proj": ("qkv_proj", ()),
    "k_proj": ("qkv_proj", ("q_proj",)),
    "v_proj": ("qkv_proj", ("q_proj", "k_proj")),
    "gate_proj": ("gate_up_proj", ()),
    "up_proj": ("gate_up_proj", ("gate_proj",)),
}  # Hugging Face's layer -> (SGLang's, those whose rows come before)
PADDED = ("embed_tokens", "lm_head")  # SGLang rounds the vocabulary up; the rows beyond it mean nothing


class CannotShare(Exception):
    """Why the engine's weights cannot be the trainer's."""


# --- in the engine -----------------------------------------------------------------------------------------------


def export_handles(model: torch.nn.Module, named_tensors: Sequence[tuple[str, Tensor]]) -> None:
    """SGLang's custom-loader hook: writes where the weights of `model` lie to the file that the first name spells."""
    # a layer with adapters wraps the layer that holds the weight; tied weights have one name here
    weights = {name.replace(".base_layer", ""): weight for name, weight in model.named_parameters()}
    if all(weight.is_cuda for weight in weights.values()):
        handle_of = gpu_handle
    else:
        file = move_to_memory_file(list(weights.values()))
        handle_of = lambda _: file  # noqa: E731
    handles: dict[int, dict[str, Any]] = {}
    places = {}
    for name, weight in weights.items():
        storage = weight.untyped_storage()
        if storage.data_ptr() not in handles:  # once: each handle of a GPU's counts as a user of the memory
            handles[storage.data_ptr()] = handle_of(storage)
        places[name] = {
            "storage": list(handles).index(storage.data_ptr()), "dtype": str(weight.dtype).removeprefix("torch."),
            "offset": weight.storage_offset(), "shape": list(weight.shape), "stride": list(weight.stride()),
        }  # fmt: skip
    Path(named_tensors[0][0]).write_text(json.dumps({"storages": list(handles.values()), "weights": places}))


def move_to_memory_file(weights: Sequence[Tensor]) -> dict[str, Any]:
    """Moves CPU weights into one anonymous memory file, a storage at a time, so that memory peaks at one of them."""
    starts: dict[int, int] = {}  # of each storage, by address: weights that share one still do afterwards
    n_bytes = 0
    for storage in (weight.untyped_storage() for weight in weights):
        if storage.data_ptr() not in starts:
            starts[storage.data_ptr()] = n_bytes
            n_bytes += -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
    path = f"/proc/{os.getpid()}/fd/{os.memfd_create('aslfast-base')}"
    os.truncate(path, n_bytes)
    memory = map_file(path, n_bytes)
    for weight in weights:
        offset = starts[weight.untyped_storage().data_ptr()] // weight.itemsize + weight.storage_offset()
        moved = torch.empty(0, dtype=weight.dtype).set_(memory, offset, weight.shape, weight.stride())
        moved.copy_(weight.data)
        weight.data = moved
    return {"file": path, "bytes": n_bytes}


def map_file(path: str, n_bytes: int) -> UntypedStorage:
    """A file's bytes, shared with whoever maps it too."""
    storage: Any = UntypedStorage.from_file(path, True, n_bytes)
    return storage


def gpu_handle(storage: UntypedStorage) -> dict[str, Any]:
    """What another process needs to open a GPU's memory; opened exactly once, as its count of users wants."""
    device, handle, n_bytes, start, counter, counter_start, event, synchronise = storage._share_cuda_()
    return {
        "gpu": str(torch.cuda.get_device_properties(device).uuid), "handle": handle.hex(), "bytes": n_bytes,
        "start": start, "counter": counter.hex(), "counter_start": counter_start, "event": event.hex(),
        "synchronise": synchronise,
    }  # fmt: skip


# --- in the trainer ----------------------------------------------------------------------------------------------


def open_export(file: Path) -> dict[str, Tensor]:
    """The engine's weights by the engine's names, in the engine's own memory. Raises CannotShare."""
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
    storage: Any = UntypedStorage._new_shared_cuda(
        _gpu(handle["gpu"]), bytes.fromhex(handle["handle"]), handle["bytes"], handle["start"],
        bytes.fromhex(handle["counter"]), handle["counter_start"], bytes.fromhex(handle["event"]),
        handle["synchronise"],
    )  # fmt: skip
    return storage


def _gpu(uuid: str) -> int:
    """The number that a GPU has in this process."""
    for device in range(torch.cuda.device_count()):
        if str(torch.cuda.get_device_properties(device).uuid) == uuid:
            return device
    raise CannotShare(f"the engine's GPU {uuid} is not visible to the trainer")


def views_of(shapes: Mapping[str, torch.Size], engine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each Hugging Face parameter [shape] as a view of the engine's weights. Raises CannotShare, naming what has none.

    Rows of SGLang's fused layers are those of q, k and v (gate and up) in this order.
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
    """(the engine's name, first row) of a Hugging Face parameter."""
    for layer, (fused, before) in FUSED.items():
        if f".{layer}." in name:
            rows = (shapes[name.replace(f".{layer}.", f".{other}.")][0] for other in before)
            return name.replace(f".{layer}.", f".{fused}."), sum(rows)
    return name, 0
