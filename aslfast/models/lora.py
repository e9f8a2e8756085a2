"""LoRA adapters over one frozen base, one a role: created, and saved and loaded in PEFT's format."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import PreTrainedModel

from aslfast.config.roles import ROLES
from aslfast.errors import UserError
from aslfast.files.atomic import atomic_folder

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
TARGETS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj",
)  # fmt: skip
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")


def add_adapters(model: PreTrainedModel, rank: int, alpha: float, seed: int, roles: Sequence[str] = ROLES) -> PeftModel:
    """Add one LoRA adapter a role to the frozen base. B starts at zero, so each adapter starts as the base itself."""
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


def targets_of(model: nn.Module) -> list[str]:
    """Return those of TARGETS that this architecture has, in a mixture of experts those of its attention alone.

    Experts are no linear layers, and the shared ones beside them see tokens without their sequences. Raise UserError
    where there is none.
    """
    present = _linear_names(model)
    wanted = [target for target in TARGETS if target in ATTENTION or not _has_experts(model)]
    found = [target for target in wanted if target in present]
    if not found:
        place, names = type(model).__name__, ", ".join(wanted)
        raise UserError(f"{place}: none of the layers {names} to adapt; use a Llama- or Qwen-like model")
    return found


def describe_targets(model: nn.Module) -> str:
    """Return which layers have adapters, as a person reads it, and which matrices of the decoder have none."""
    decoder: Any = model.get_decoder()  # type: ignore[operator]
    adapted = targets_of(model)
    left = sorted(_linear_names(decoder) - set(adapted)) + ["the experts"] * _has_experts(decoder)
    without = f"; without adapters: {', '.join(left)}" if left else ""
    return f"{', '.join(adapted)} of {decoder.config.num_hidden_layers} layers{without}"


def _has_experts(model: nn.Module) -> bool:
    return any("experts" in name.split(".") for name, _ in model.named_modules())


def _linear_names(model: nn.Module) -> set[str]:
    """Return the last names of the linear layers, whether an adapter wraps them or not."""
    found = {name.replace(".base_layer", "") for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    return {name.rsplit(".", 1)[-1] for name in found if ".lora_" not in name}


def parameters_of(model: nn.Module, role: str) -> list[Parameter]:
    """Return the adapter's own weights, in the model's order."""
    return [p for name, p in model.named_parameters() if f".{role}." in name]


def adapter_tensors(model: PeftModel, role: str) -> dict[str, Tensor]:
    """Return the adapter's weights on the CPU, by the names of PEFT's files, which hold no role."""
    # save_embedding_layers: left to itself, PEFT asks the Hugging Face hub about the base
    state = get_peft_model_state_dict(model, adapter_name=role, save_embedding_layers=False)
    return {name: weight.detach().cpu().contiguous() for name, weight in state.items()}


def save_adapter(model: PeftModel, role: str, folder: Path, version: int) -> Path:
    """Write `folder/vNNNN` in PEFT's format, complete or not at all; `PeftModel.from_pretrained` loads it.

    A version that exists is kept: its weights have not changed since. Raise OSError.
    """
    target = folder / f"v{version:04d}"
    if target.exists():
        return target
    with atomic_folder(target) as partial:
        write_adapter(model, role, partial)
    return target


def write_adapter(model: PeftModel, role: str, folder: Path) -> None:
    """Write the adapter's two files into a folder that nobody reads yet. Raise OSError."""
    try:
        save_file(adapter_tensors(model, role), folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # what safetensors raises on a full disk
        raise OSError(str(error)) from error
    config = copy.copy(model.peft_config[role])
    assert isinstance(config, LoraConfig)
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules or ())  # PEFT keeps a set, written in another order each time
    config.save_pretrained(str(folder))


def load_adapter(model: PeftModel, role: str, folder: Path) -> None:
    """Load the weights of a PEFT adapter into the role's. Raise UserError unless scaling and layers are the same."""
    config, state = _read_adapter(folder)
    _check_scaling(folder, config, model.peft_config[role])
    _check_weights(folder, state, adapter_tensors(model, role))
    set_peft_model_state_dict(model, state, adapter_name=role)


def adapter_shape(folder: Path) -> tuple[int, float]:
    """Return (rank, alpha) of a PEFT adapter, as `add_adapters` takes them. Raise UserError."""
    config, _ = _read_adapter(folder)
    return int(config["r"]), float(config["lora_alpha"])


def _read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return (adapter_config.json, weights). Raise UserError."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        missing = {"r", "lora_alpha"} - config.keys()
        if missing:
            raise ValueError(f"adapter_config.json has no {' and no '.join(sorted(missing))}")
        return config, load_file(folder / WEIGHTS)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        newest = latest(folder)
        files = "a folder with adapter_config.json and adapter_model.safetensors"
        raise UserError(f"{folder}: no readable adapter ({reason}); name {newest or files}") from error


# settings under which the same weights give another adapter, or which come with weights that are not LoRA's
VARIANTS = (
    "use_dora", "use_rslora", "alora_invocation_tokens", "alpha_pattern", "rank_pattern", "fan_in_fan_out", "lora_bias",
    "bias", "layers_to_transform", "modules_to_save", "target_parameters", "trainable_token_indices",
    "layer_replication",
)  # fmt: skip


def _check_scaling(folder: Path, config: Mapping[str, Any], own: PeftConfig) -> None:
    """Raise UserError unless the adapter is plain LoRA of the role's rank and alpha."""
    unset = (None, "none", [], {})
    variant = next((k for k in VARIANTS if config.get(k) is not False and config.get(k) not in unset), None)
    if variant or config.get("peft_type", "LORA") != "LORA":
        what = f"{variant} is {config[variant]}" if variant else f"peft_type is {config['peft_type']}"
        raise UserError(f"{folder}: {what}; here only plain LoRA is trained: start from an adapter without it")
    assert isinstance(own, LoraConfig)
    rank, alpha = config["r"], config["lora_alpha"]
    if (rank, alpha) != (own.r, own.lora_alpha):
        suggestion = f"set lora.rank={rank} and lora.alpha={alpha}"
        raise UserError(
            f"{folder}: its rank is {rank}, its alpha {alpha}; here {own.r}, {own.lora_alpha}; {suggestion}"
        )


def _check_weights(folder: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise UserError unless layers and shapes are the same."""
    theirs, ours = ({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names} for names in (state, own))
    if theirs != ours:
        found, wanted = ", ".join(sorted(theirs)), ", ".join(sorted(ours))
        raise UserError(f"{folder}: it adapts {found}; here {wanted}: start from an adapter with these target_modules")
    if {name: weight.shape for name, weight in own.items()} != {name: weight.shape for name, weight in state.items()}:
        raise UserError(f"{folder}: the adapter is of another base model; use the base that it was trained on")


def latest(folder: Path) -> Path | None:
    """Return the adapter folder with the highest version, if there is one."""
    versions = [p for p in folder.glob("v*") if p.name[1:].isdecimal() and p.is_dir()]
    return max(versions, key=lambda p: int(p.name[1:]), default=None)
