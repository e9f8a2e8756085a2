"""A base too large for one card: the ranks of a cell hold its layers between them, each a part of every matrix.

    layers                  FSDP2: gathered when their turn comes, forward and backward, and let go after it
    embeddings, norm, head  whole on every rank: the fused log-prob reads the head's weight
    adapters                whole on every rank, their gradients added up as without parts (ranks.py)

torch.distributed.fsdp.fully_shard: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html. Gathering is
an exchange: the ranks of a cell run forward and backward passes in step (Learner.accumulate).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from aslfast.config import RunConfig
from aslfast.distributed.process_group import ProcessGroup
from aslfast.errors import UserError
from aslfast.models.weight_files import BaseWeights, WeightFiles, reason_not_shared


def form_model_parallel_groups(ranks: ProcessGroup, config: RunConfig) -> None:
    """Cells of `distributed.model_parallel_size` ranks. Raises UserError where that cannot be."""
    size, local = config.distributed.model_parallel_size, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if size == 1:
        return
    if ranks.size % size or local % size:
        raise UserError(
            f"distributed.model_parallel_size is {size}, but {ranks.size} ranks run, {local} on this machine; both are to be multiples of "
            f"it: torchrun --nproc-per-node {size}"
        )
    ranks.model_parallel_size = size
    told = [name.decode() for name in ranks.gather_in_group(os.environ.get("CUDA_VISIBLE_DEVICES", "").encode())]
    ranks.gpus = tuple(name for name in told if name)


def check_shardable(folder: Path, parts: int) -> None:
    """Raises UserError where this base cannot be cut, or its attention not into so many parts."""
    if reason := reason_not_shared(folder, share_base=True):
        raise UserError(
            f"{folder}: distributed.model_parallel_size cannot split this base: {reason}; set distributed.model_parallel_size to 1"
        )
    heads = json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_attention_heads"]
    if heads % parts:
        raise UserError(
            f"{folder}: distributed.model_parallel_size is {parts}, the model has {heads} attention heads; take a divisor"
        )


def shard_base_model(model: PeftModel, folder: Path, ranks: ProcessGroup) -> None:
    """Fills a model of placeholders (frozen_base.load_skeleton) from its files: layers with this rank's rows."""
    base, decoder = BaseWeights(model, folder), model.get_base_model().get_decoder()  # type: ignore[operator]
    inside, whole = {id(weight) for weight in decoder.layers.parameters()}, base.now()
    meta = {n: torch.empty_like(w, device="meta") if id(w) in inside else w for n, w in whole.items()}
    base.put(meta)
    split(decoder, mesh_of(ranks, model.device.type))
    files = WeightFiles(folder)
    base.put({name: _filled(files, name, weight, model.device) for name, weight in base.now().items()})


def mesh_of(ranks: ProcessGroup, device: str) -> DeviceMesh:
    """This rank's cell, as torch.distributed sees it."""
    return init_device_mesh(
        device, (ranks.size // ranks.model_parallel_size, ranks.model_parallel_size), mesh_dim_names=("cells", "cell")
    )["cell"]


def split(decoder: Any, mesh: DeviceMesh) -> None:
    """Each layer by itself; the decoder around them sees to it that the next is gathered while one computes."""
    adapters = {weight for name, weight in decoder.named_parameters() if ".lora_" in name}
    inside = set(decoder.layers.parameters())
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, ignored_params=adapters)
    fully_shard(decoder, mesh=mesh, ignored_params=adapters | (set(decoder.parameters()) - inside))


def _filled(files: WeightFiles, name: str, weight: Tensor, device: torch.device) -> Tensor:
    if not isinstance(weight, DTensor):
        return files.read(name).to(device, weight.dtype)
    part, mesh = weight.to_local(), weight.device_mesh
    start = mesh.get_local_rank() * -(-len(weight) // mesh.size())  # as torch.chunk cuts
    rows = torch.empty_like(part, device=device)
    if len(part):  # the last of many ranks may have none of a small matrix
        rows.copy_(files.read(name, start, start + len(part)))
    return DTensor.from_local(rows, mesh, weight.placements, shape=weight.shape, stride=weight.stride())
