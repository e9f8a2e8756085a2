"""The engine's half of sharing the base: `export_handles` runs over the engine's model and writes where weights lie.

On a CPU the engine moves its weights into one anonymous memory file, which the trainer maps through /proc; it is gone
with the last process that has it, however that process ends. On a GPU the memory stays where it is and its CUDA IPC
handles are passed on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, UntypedStorage

ALIGNMENT = 64  # bytes: what torch's own allocator gives on a CPU, and so what its kernels are used to

Handle = dict[str, object]  # JSON: how another process opens a storage


def export_handles(model: torch.nn.Module, named_tensors: Sequence[tuple[str, Tensor]]) -> None:
    """Write where the weights of `model` lie to the file that the first name spells: SGLang's custom-loader hook."""
    # a layer with adapters wraps the layer that holds the weight; tied weights have one name here
    weights = {name.replace(".base_layer", ""): weight for name, weight in model.named_parameters()}
    handle_of = _handle_function(list(weights.values()))
    handles: dict[int, Handle] = {}
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


def _handle_function(weights: Sequence[Tensor]) -> Callable[[UntypedStorage], Handle]:
    """Return what gives a storage's handle; weights on a CPU are moved into a file first."""
    if all(weight.is_cuda for weight in weights):
        return gpu_handle
    file = move_to_memory_file(weights)
    return lambda _: file


def move_to_memory_file(weights: Sequence[Tensor]) -> Handle:
    """Move CPU weights into one anonymous memory file, a storage at a time, so that memory peaks at one of them."""
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
    """Map a file's bytes, shared with every process that maps it too."""
    storage: Any = UntypedStorage.from_file(path, True, n_bytes)
    return storage


def gpu_handle(storage: UntypedStorage) -> Handle:
    """Return what another process needs to open a GPU's memory; open it exactly once: CUDA counts its users."""
    device, handle, n_bytes, start, counter, counter_start, event, synchronise = storage._share_cuda_()
    return {
        "gpu": str(torch.cuda.get_device_properties(device).uuid), "handle": handle.hex(), "bytes": n_bytes,
        "start": start, "counter": counter.hex(), "counter_start": counter_start, "event": event.hex(),
        "synchronise": synchronise,
    }  # fmt: skip
