"""The trainer's frozen base where its weights come from elsewhere: a model without weights, filled, emptied, filled.

While the engine is away the parameters are placeholders: of the right shape, type and device, one NaN in memory each,
so that adapters can be added and whatever is computed with them is plainly wrong.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig

from aslfast.sampler.sglang.engine_client import Engine, RequestRefused
from aslfast.sampler.sglang.shared_weights import CannotShare, open_export, views_of

SHAREABLE = ("llama", "qwen2", "qwen3")  # whose parameters views_of knows to cut


def reason_not_shared(folder: Path, share_base: bool) -> str | None:
    """Why the trainer and an engine are not to share this base; None where they are."""
    if not share_base:
        return "sampler.share_base is false"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its config.json cannot be read"  # whoever loads the model says more
    if config.get("model_type") not in SHAREABLE:
        return f"its model_type {config.get('model_type')} is none of {', '.join(SHAREABLE)}"
    return "its weights are quantised" if config.get("quantization_config") else None


class WeightFiles:
    """The tensors of a model folder's safetensors files, read when asked for. Raises OSError, SafetensorError."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
        self._tensors: dict[str, Any] = {}
        for name in sorted(names):
            file = safe_open(folder / name, "pt")
            self._tensors |= {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  # no mapping

    def shapes(self) -> dict[str, list[int]]:
        return {name: tensor.get_shape() for name, tensor in self._tensors.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Of the rows from `start` to before `stop`, no others are read."""
        return self._tensors[name][start:stop]

    def differs(self, name: str, weight: Tensor) -> bool:
        """Whether the first, middle or last row differs, in the weight's own type."""
        rows = self._tensors.get(name)
        return rows is None or any(
            not torch.equal(rows[i : i + 1].to(weight.dtype), weight[i : i + 1].cpu())
            for i in (0, len(weight) // 2, len(weight) - 1)
        )


def load_without_weights(folder: Path, dtype: torch.dtype, device: str) -> tuple[Any, dict[str, Any]]:
    """(the model with placeholders, what transformers found), buffers and settings as a loaded model has them."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    state = {name: _placeholder(shape, dtype, "cpu") for name, shape in WeightFiles(folder).shapes().items()}
    model, found = model_class.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
    )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    BaseWeights(model, folder).release(device)  # before the model is moved, which would give placeholders memory
    return model, found


def _placeholder(shape: Any, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    return torch.full((1,), float("nan"), dtype=dtype, device=device).expand(shape)


class BaseWeights:
    """The parameters of a model that are not its adapters'. `release` and `bind`: before an engine starts, and after.

    Places in the model are found once, so adapters are added before this is made.
    """

    def __init__(self, model: nn.Module, folder: Path, notice: Callable[[str], None] = lambda _: None) -> None:
        self._folder, self._notice = folder, notice
        self._places: dict[str, list[tuple[nn.Module, str]]] = {}  # tied weights have several
        names: dict[int, str] = {}
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        for path, module in base.named_modules():
            if ".lora_" not in path:
                for attribute, weight in module.named_parameters(recurse=False):
                    name = names.setdefault(id(weight), f"{path.replace('.base_layer', '')}.{attribute}")
                    self._places.setdefault(name, []).append((module, attribute))
        self.shared = False
        self.n_bytes = 0

    def now(self) -> dict[str, Tensor]:
        return {name: getattr(*places[0]) for name, places in self._places.items()}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        for name, places in self._places.items():
            frozen = nn.Parameter(weights[name], requires_grad=False)
            for module, attribute in places:
                setattr(module, attribute, frozen)

    def release(self, device: str | None = None) -> None:
        """Let the weights go, so that a new engine has the room. device: where placeholders lie; None: as now."""
        now = self.now()
        self.put({name: _placeholder(w.shape, w.dtype, device or w.device) for name, w in now.items()})
        if torch.cuda.is_initialized():
            torch.cuda.ipc_collect()  # closes the handles of memory that nobody uses any more

    def bind(self, engine: Engine) -> None:
        """Make the parameters views of the engine's; where that cannot be, load a copy and tell. Raises UserError."""
        try:
            views = self._views(engine)
        except CannotShare as reason:
            self._fill()
            self.shared = False
            self._notice(f"base: two copies ({reason})")
        else:
            self.put(views)
            self.shared = True
            self.n_bytes = sum(view.numel() * view.itemsize for view in views.values())
            self._notice(f"base: shared with the engine, {self.n_bytes / 1e9:.3g} GB")

    def _fill(self) -> None:
        """A copy of our own, from the files."""
        files = WeightFiles(self._folder)
        self.put({name: files.read(name).to(w.device, w.dtype) for name, w in self.now().items()})

    def _views(self, engine: Engine) -> dict[str, Tensor]:
        """Checked against the files: a weight in the wrong place cannot go unnoticed. Raises CannotShare."""
        now = self.now()
        with tempfile.TemporaryDirectory(prefix="aslfast-base-") as folder:  # its owner's alone
            file = Path(folder) / "weights.json"
            try:
                engine.call("export_base", name=str(file))
            except RequestRefused as error:
                raise CannotShare(f"the engine does not export it: {error}") from error
            views = views_of({name: weight.shape for name, weight in now.items()}, open_export(file))
        files = WeightFiles(self._folder)
        for name, view in views.items():
            if view.dtype != now[name].dtype or files.differs(name, view):
                raise CannotShare(f"{name}: the engine's values are not the file's")
        return views
