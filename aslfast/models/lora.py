"""Three LoRA adapters over one frozen base: made, switched, counted and written in PEFT's format."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter
from transformers import AutoModelForCausalLM

from aslfast.core import ROLES
from aslfast.errors import UserError
from aslfast.files.atomic import atomic_folder
from aslfast.models.tokenizer import load_tokenizer

WEIGHTS = "adapter_model.safetensors"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def load_weights(folder: Path, dtype: torch.dtype, _: str) -> tuple[Any, dict[str, Any]]:
    """(the model on the CPU, what transformers found); no pickle is read."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
    )
    return loaded


def load_base(
    path: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu",
    load: Callable[[Path, torch.dtype, str], tuple[Any, dict[str, Any]]] = load_weights,
) -> tuple[Any, Any]:  # fmt: skip
    """(model on `device`, tokenizer) of a local folder; nothing is fetched. Raises UserError.

    load: frozen_base.load_skeleton for a model that gets its weights later.
    """
    folder, device = Path(path), _device(device)
    if not (folder / "config.json").is_file():
        remedy = "name a folder that holds a Hugging Face model"
        raise UserError(f"{folder}: no model here (config.json is missing); {remedy}")
    try:
        tokenizer = load_tokenizer(folder)
        model, found = load(folder, dtype, device)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:300]
        remedy = "it needs safetensors weights and a tokenizer"
        raise UserError(f"{folder}: the model cannot be loaded ({reason}); {remedy}") from error
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # made empty where files are missing
        raise UserError(f"{folder}: the tokenizer has no vocabulary; add the model's tokenizer.json")
    if found["missing_keys"]:  # transformers goes on with random weights
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise UserError(f"{folder}: weights are missing ({missing}); copy the model folder again, complete")
    return model.eval().to(device), tokenizer


def _device(name: str) -> str:
    """`auto` is the GPU where there is one. Raises UserError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is cuda, but torch sees no GPU here; use auto or cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def add_adapters(model: Any, rank: int, alpha: float, seed: int, roles: Sequence[str] = ROLES) -> PeftModel:
    """One LoRA adapter a role over the frozen base; B starts at zero, so each starts as the base itself."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  # a float is as good
        target_modules=targets_of(model),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(model, config, adapter_name=roles[0])
    assert isinstance(peft_model, PeftModel)
    for role in roles[1:]:
        peft_model.add_adapter(role, config)
    peft_model.eval()  # new layers start in training mode
    return peft_model


def targets_of(model: Any) -> list[str]:
    """The usual projections that this architecture has. Raises UserError."""
    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    found = [target for target in TARGETS if target in present]
    if not found:
        place, wanted = type(model).__name__, ", ".join(TARGETS)
        raise UserError(f"{place}: none of the layers {wanted} to adapt; use a Llama- or Qwen-like model")
    return found


def parameters_of(model: torch.nn.Module, role: str) -> list[Parameter]:
    """The adapter's own weights, in the model's order."""
    return [p for name, p in model.named_parameters() if f".{role}." in name]


def save_adapter(model: PeftModel, role: str, folder: Path, version: int) -> Path:
    """Writes `folder/vNNNN` in PEFT's format, complete or not at all; `PeftModel.from_pretrained` loads it.

    A version that is there already is kept: its weights have not moved since. Raises OSError.
    """
    target = folder / f"v{version:04d}"
    if target.exists():
        return target
    with atomic_folder(target) as partial:
        _write_adapter(model, role, partial)
    return target


def _write_adapter(model: PeftModel, role: str, partial: Path) -> None:
    # save_embedding_layers: left to itself, PEFT asks the Hugging Face hub about the base
    state = get_peft_model_state_dict(model, adapter_name=role, save_embedding_layers=False)
    state = {name: weight.detach().cpu().contiguous() for name, weight in state.items()}
    try:
        save_file(state, partial / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # how it tells of a full disk
        raise OSError(str(error)) from error
    config: Any = copy.copy(model.peft_config[role])
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules or ())  # PEFT keeps a set, written in another order each time
    config.save_pretrained(str(partial))


def load_adapter(model: PeftModel, role: str, folder: Path) -> None:
    """Puts the weights of a PEFT adapter into the role's. Raises UserError unless it scales and adapts as ours do."""
    config, state = _read_adapter(folder)
    _check_scaling(folder, config, model.peft_config[role])
    own = get_peft_model_state_dict(model, adapter_name=role, save_embedding_layers=False)
    _check_weights(folder, state, own)
    set_peft_model_state_dict(model, state, adapter_name=role)


def _read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        missing = {"r", "lora_alpha"} - config.keys()
        if missing:
            raise ValueError(f"adapter_config.json has no {' and no '.join(sorted(missing))}")
        return config, load_file(folder / WEIGHTS)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        newest = latest(folder)
        remedy = f"name {newest}" if newest else "name a folder with adapter_config.json and adapter_model.safetensors"
        raise UserError(f"{folder}: no readable adapter ({reason}); {remedy}") from error


# what makes the same weights mean something else
VARIANTS = ("use_dora", "use_rslora", "alora_invocation_tokens", "alpha_pattern", "rank_pattern", "fan_in_fan_out")


def _check_scaling(folder: Path, config: Mapping[str, Any], here: Any) -> None:
    variant = next((key for key in VARIANTS if config.get(key)), None)
    if variant or config.get("peft_type", "LORA") != "LORA":
        what = f"{variant} is {config[variant]}" if variant else f"peft_type is {config['peft_type']}"
        raise UserError(f"{folder}: {what}; here only plain LoRA is trained: start from an adapter without it")
    rank, alpha = config["r"], config["lora_alpha"]
    if (rank, alpha) != (here.r, here.lora_alpha):
        remedy = f"set lora.rank={rank} and lora.alpha={alpha}"
        raise UserError(f"{folder}: its rank is {rank}, its alpha {alpha}; here {here.r}, {here.lora_alpha}; {remedy}")


def _check_weights(folder: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """The same layers, then the same sizes."""
    theirs, ours = ({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names} for names in (state, own))
    if theirs != ours:
        found, wanted = ", ".join(sorted(theirs)), ", ".join(sorted(ours))
        raise UserError(f"{folder}: it adapts {found}; here {wanted}: start from an adapter with these target_modules")
    if {name: weight.shape for name, weight in own.items()} != {name: weight.shape for name, weight in state.items()}:
        raise UserError(f"{folder}: the adapter is of another base model; use the base that it was trained on")


def latest(folder: Path) -> Path | None:
    """The adapter folder with the highest version, if there is one."""
    versions = [p for p in folder.glob("v*") if p.name[1:].isdecimal() and p.is_dir()]
    return max(versions, key=lambda p: int(p.name[1:]), default=None)
