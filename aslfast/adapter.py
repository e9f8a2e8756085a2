"""Three LoRA adapters over one frozen base: made, switched, counted and written in PEFT's format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import Parameter
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from aslfast.core import ROLES
from aslfast.errors import UserError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def load_base(path: str | Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(model, tokenizer) of a local model folder; nothing is fetched and no pickle is read. Raises UserError."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model here (config.json is missing); name a folder that holds a Hugging Face model")
    try:
        # tokenizer.json as it stands: AutoTokenizer rebuilds it by the model's type, with another pre-tokenizer
        tokenizer_class = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
        tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=dtype)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}: the model cannot be loaded ({reason}); it needs safetensors weights and a tokenizer") from error
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # transformers makes an empty one where files are missing
        raise UserError(f"{folder}: the tokenizer has no vocabulary; add the model's tokenizer.json")
    return model.eval(), tokenizer


def add_adapters(model: Any, rank: int, alpha: float, seed: int, roles: Sequence[str] = ROLES) -> PeftModel:
    """One LoRA adapter a role over the frozen base; B starts at zero, so each starts as the base itself."""
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(_targets_of(model)), lora_dropout=0.0, task_type="CAUSAL_LM")
    peft_model = get_peft_model(model, config, adapter_name=roles[0])
    for role in roles[1:]:
        peft_model.add_adapter(role, config)
    if not isinstance(peft_model, PeftModel):
        raise TypeError("peft gave no PeftModel")
    return peft_model


def _targets_of(model: Any) -> list[str]:
    """The usual projections, or for another architecture every linear layer but the head ("all-linear" in PEFT)."""
    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    found = [target for target in TARGETS if target in present]
    if not found:
        raise UserError(f"{type(model).__name__}: none of the layers {', '.join(TARGETS)} to adapt; use a Llama- or Qwen-like model")
    return found


def lora_layers(model: torch.nn.Module) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def parameters_of(model: torch.nn.Module, role: str) -> list[Parameter]:
    """The adapter's own weights, in the model's order."""
    return [p for name, p in model.named_parameters() if f".{role}." in name]


@contextmanager
def active(model: PeftModel, role: str):
    """The role's adapter alone in the forward pass, and alone trainable."""
    model.set_adapter(role)
    yield model


def save_adapter(model: PeftModel, role: str, folder: Path, version: int) -> Path:
    """Writes `folder/vNNNN` in PEFT's format, complete or not at all; `PeftModel.from_pretrained` loads it. Raises OSError."""
    target = folder / f"v{version:04d}"
    partial = folder / f".v{version:04d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_adapter(model, role, partial)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write_adapter(model: PeftModel, role: str, partial: Path) -> None:
    partial.mkdir(parents=True)
    state = {name: weight.detach().cpu().contiguous() for name, weight in get_peft_model_state_dict(model, adapter_name=role).items()}
    try:
        save_file(state, partial / "adapter_model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:  # how it tells of a full disk
        raise OSError(str(error)) from error
    config = model.peft_config[role]
    inference_mode, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(partial))
    config.inference_mode = inference_mode


def load_adapter(model: PeftModel, role: str, folder: Path) -> None:
    """Puts the weights of a saved adapter into the role's; ranks and layers must agree. Raises UserError."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    here = model.peft_config[role]
    if config["r"] != getattr(here, "r", None):
        raise UserError(f"{folder}: the adapter has rank {config['r']}, the run has {getattr(here, 'r', None)}; set lora.rank to match")
    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"), adapter_name=role)


def latest(folder: Path) -> Path | None:
    """The adapter folder with the highest version, if there is one."""
    versions = sorted((p for p in folder.glob("v*") if p.is_dir()), key=lambda p: int(p.name[1:]))
    return versions[-1] if versions else None
