"""A base too large for one card: the ranks of a model-parallel group hold its layers, each a part of every matrix.

    layers                  FSDP2: gathered when they compute, forward and backward, and freed after it
    embeddings, norm, head  whole on every rank: the fused log-prob reads the head's weight
    adapters                whole on every rank, their gradients summed as without shards (distributed/process_group.py)

torch.distributed.fsdp.fully_shard: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html. Gathering is
a collective: the ranks of a group run forward and backward passes in step (Learner.accumulate).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from aslfast.distributed.process_group import ProcessGroup
from aslfast.models.weight_files import WeightFiles


def group_mesh(process_group: ProcessGroup, device: str) -> DeviceMesh:
    """Return this rank's model-parallel group as torch.distributed's mesh [model_parallel_size]."""
    size = process_group.model_parallel_size
    shape = (process_group.size // size, size)
    return init_device_mesh(device, shape, mesh_dim_names=("replicate", "shard"))["shard"]


def shard_layers(decoder: Any, mesh: DeviceMesh) -> None:
    """Shard each layer by itself; the decoder around them prefetches the next while one computes."""
    adapters = {weight for name, weight in decoder.named_parameters() if ".lora_" in name}
    inside = set(decoder.layers.parameters())
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, ignored_params=adapters)
    fully_shard(decoder, mesh=mesh, ignored_params=adapters | (set(decoder.parameters()) - inside))


def read_shard(files: WeightFiles, name: str, weight: Tensor, device: torch.device) -> Tensor:
    """Read what `weight` holds on this rank: its rows if it is sharded, else all of it."""
    if not isinstance(weight, DTensor):
        return files.read(name).to(device, weight.dtype)
    part, mesh = weight.to_local(), weight.device_mesh
    start = mesh.get_local_rank() * -(-len(weight) // mesh.size())  # as torch.chunk cuts
    rows = torch.empty_like(part, device=device)
    if len(part):  # the last of many ranks may have none of a small matrix
        rows.copy_(files.read(name, start, start + len(part)))
    return DTensor.from_local(rows, mesh, weight.placements, shape=weight.shape, stride=weight.stride())
