"""The frozen weights of a model, and the three places that they come from.

    loaded    read from the model's files: a copy of the trainer's own
    shared    views of the memory that an engine serves from: one copy for both
    sharded   read from the files, this rank's rows alone (fsdp.py)

Until weights arrive the parameters are placeholders: of the right shape, dtype and device, one NaN in memory each, so
that adapters can be added, and a result computed with them is plainly wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from aslfast.distributed.process_group import ProcessGroup
from aslfast.models.fsdp import group_mesh, read_shard, shard_layers
from aslfast.models.weight_files import WeightFiles


class CannotShare(Exception):
    """Why an engine's weights cannot be the trainer's."""


# Parameter shapes by Hugging Face's names -> views of the engine's memory. Raises CannotShare.
EngineViews = Callable[[Mapping[str, torch.Size]], Mapping[str, Tensor]]


def placeholder(shape: torch.Size | list[int], dtype: torch.dtype, device: str | torch.device) -> Tensor:
    """Return a tensor of NaN that takes one element of memory."""
    return torch.full((1,), float("nan"), dtype=dtype, device=device).expand(shape)


class BaseWeights:
    """The parameters of a model that are not its adapters'.

    Their places in the model are looked up once: add adapters before this is made. notify: called with one line about
    where an engine's weights are.
    """

    def __init__(self, model: nn.Module, folder: Path, notify: Callable[[str], None] = lambda _: None) -> None:
        self._folder, self._notify = folder, notify
        self._base = model.get_base_model() if isinstance(model, PeftModel) else model
        self._places: dict[str, list[tuple[nn.Module, str]]] = {}  # tied weights have several
        names: dict[int, str] = {}
        for path, module in self._base.named_modules():
            if ".lora_" not in path:
                for attribute, weight in module.named_parameters(recurse=False):
                    name = names.setdefault(id(weight), f"{path.replace('.base_layer', '')}.{attribute}")
                    self._places.setdefault(name, []).append((module, attribute))

    def release(self, device: str | None = None) -> None:
        """Put placeholders in place of the weights, so that a new engine has the room.

        device: where the placeholders lie; None: where the weights do.
        """
        self._assign({n: placeholder(w.shape, w.dtype, device or w.device) for n, w in self._tensors().items()})
        if torch.cuda.is_initialized():
            torch.cuda.ipc_collect()  # closes the handles of memory that is no longer used

    def load(self) -> None:
        """Read a copy of the trainer's own from the files."""
        files = WeightFiles(self._folder)
        self._assign({name: files.read(name).to(w.device, w.dtype) for name, w in self._tensors().items()})

    def share_or_load(self, engine_views: EngineViews) -> None:
        """Make the parameters views of an engine's memory; where that cannot be, load a copy. Notify of which."""
        try:
            views = self._checked_views(engine_views)
        except CannotShare as reason:
            self.load()
            self._notify(f"base: two copies ({reason})")
        else:
            self._assign(views)
            n_bytes = sum(view.numel() * view.itemsize for view in views.values())
            self._notify(f"base: shared with the engine, {n_bytes / 1e9:.3g} GB")

    def shard(self, process_group: ProcessGroup) -> None:
        """Split the layers over this rank's model-parallel group, and read this rank's part from the files."""
        tensors, decoder = self._tensors(), self._base.get_decoder()  # type: ignore[operator]
        device = next(iter(tensors.values())).device
        inside = {id(weight) for weight in decoder.layers.parameters()}
        # on the meta device, where sharding a layer allocates nothing
        self._assign({n: torch.empty_like(w, device="meta") if id(w) in inside else w for n, w in tensors.items()})
        shard_layers(decoder, group_mesh(process_group, device.type))
        files = WeightFiles(self._folder)
        self._assign({name: read_shard(files, name, weight, device) for name, weight in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(*places[0]) for name, places in self._places.items()}

    def _assign(self, weights: Mapping[str, Tensor]) -> None:
        for name, places in self._places.items():
            frozen = nn.Parameter(weights[name], requires_grad=False)
            for module, attribute in places:
                setattr(module, attribute, frozen)

    def _checked_views(self, engine_views: EngineViews) -> Mapping[str, Tensor]:
        """Compare the engine's values with the files: a weight in the wrong place must show. Raise CannotShare."""
        tensors = self._tensors()
        views = engine_views({name: weight.shape for name, weight in tensors.items()})
        files = WeightFiles(self._folder)
        for name, view in views.items():
            if view.dtype != tensors[name].dtype or files.differs(name, view):
                raise CannotShare(f"{name}: the engine's values are not the file's")
        return views
