"""The models under test: bases that end no turn, and weights that differ by role."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear

from aslfast.config.roles import ROLES
from aslfast.files.shipped import LAB_BASE
from aslfast.models import lora
from aslfast.models.base_model import load_base

SHAPES = {
    "random-7b": {  # Qwen2.5-7B's
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768, "tie_word_embeddings": False,
    },
    "random-tiny": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 2048, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
}  # fmt: skip


def save_endless_base(name: str, dtype: str, device: str, folder: Path) -> Path:
    """Write a base without a token that ends a turn: "lab", or a name of SHAPES with random weights.

    Both have the lab's tokenizer. Return the folder.
    """
    shutil.copytree(LAB_BASE, folder)
    if name != "lab":
        (folder / "model.safetensors").unlink()
        torch.manual_seed(0)
        with torch.device(device):
            config = transformers.Qwen2Config(**SHAPES[name], eos_token_id=None, bos_token_id=None, pad_token_id=None)
            config.torch_dtype = getattr(torch, dtype)
            model = transformers.Qwen2ForCausalLM._from_config(config)
        model.save_pretrained(folder)
    for file in (folder / "config.json", folder / "generation_config.json"):
        if file.exists():
            file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": None}))
    return folder


def save_merged_base(base: Path, model: PeftModel, role: str, folder: Path) -> None:
    """Write the base with the weights of a role's adapter added: W + (alpha / r) B A."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    merged, _ = load_base(base, model.dtype, "cpu")
    weights = dict(merged.named_parameters())
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLinear):
            weight = weights[f"{name}.weight"]
            weight.data += module.get_delta_weight(role).detach().to(weight)
    merged.save_pretrained(folder)
    shutil.copy(base / "config.json", folder / "config.json")


def randomize_adapters(model: PeftModel, seed: int) -> None:
    """Make the adapters differ from the base and from each other, as trained ones do; new ones are the base."""
    generator = torch.Generator().manual_seed(seed)
    for role in ROLES:
        for parameter in lora.parameters_of(model, role):
            noise = torch.randn(parameter.shape, generator=generator) * 0.01
            parameter.data += noise.to(parameter)
