"""The sizes of a model that a memory plan needs, from config.json or by name; no weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from aslfast.errors import UserError
from aslfast.learner.attention import check_architecture
from aslfast.models import lora
from aslfast.models.base_model import model_folder
from aslfast.models.context_limit import ContextLimit, context_limit
from aslfast.models.folder_check import check_model_config

DENSE = ("llama", "mistral", "qwen2", "qwen3")  # tests compare the plan's formulas with their layers
QK_NORM = ("qwen3",)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model and of one role's adapter."""

    name: str
    kind: str  # transformers' model_type
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    parameters: int  # of the base
    layer_parameters: int  # of them those in its layers
    adapter_parameters: int  # of one role's adapter
    adapted: str  # the layers that have adapters, as a person reads it
    limit: ContextLimit | None = None  # None: none, or not known

    @property
    def qk_norm(self) -> bool:
        """Whether the attention normalises queries and keys."""
        return self.kind in QK_NORM


def _known(kind: str, sizes: tuple[int, ...], tied: bool, head_dim: int = 0) -> dict[str, Any]:
    """Return the keys of a model's config.json. sizes: in the order of `names`."""
    names = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
        "vocab_size",
    )  # fmt: skip
    given = {"model_type": kind, "tie_word_embeddings": tied, "sliding_window": None}
    return given | dict(zip(names, sizes, strict=True)) | ({"head_dim": head_dim} if head_dim else {})


# by the name of the model's folder, up to a suffix like -Instruct; from the models' own config.json files
KNOWN = {
    "qwen2.5-0.5b": _known("qwen2", (896, 24, 14, 2, 4864, 151936), True),
    "qwen2.5-1.5b": _known("qwen2", (1536, 28, 12, 2, 8960, 151936), True),
    "qwen2.5-3b": _known("qwen2", (2048, 36, 16, 2, 11008, 151936), True),
    "qwen2.5-7b": _known("qwen2", (3584, 28, 28, 4, 18944, 152064), False),
    "qwen2.5-14b": _known("qwen2", (5120, 48, 40, 8, 13824, 152064), False),
    "qwen2.5-32b": _known("qwen2", (5120, 64, 40, 8, 27648, 152064), False),
    "qwen2.5-72b": _known("qwen2", (8192, 80, 64, 8, 29568, 152064), False),
    "qwen3-0.6b": _known("qwen3", (1024, 28, 16, 8, 3072, 151936), True, 128),
    "qwen3-1.7b": _known("qwen3", (2048, 28, 16, 8, 6144, 151936), True, 128),
    "qwen3-4b": _known("qwen3", (2560, 36, 32, 8, 9728, 151936), True, 128),
    "qwen3-8b": _known("qwen3", (4096, 36, 32, 8, 12288, 151936), False, 128),
    "qwen3-14b": _known("qwen3", (5120, 40, 40, 8, 17408, 151936), False, 128),
    "qwen3-32b": _known("qwen3", (5120, 64, 64, 8, 25600, 151936), False, 128),
    "llama-3.1-8b": _known("llama", (4096, 32, 32, 8, 14336, 128256), False),
    "llama-3.1-70b": _known("llama", (8192, 80, 64, 8, 28672, 128256), False),
    "llama-3.2-1b": _known("llama", (2048, 16, 32, 8, 8192, 128256), True),
    "llama-3.2-3b": _known("llama", (3072, 28, 24, 8, 8192, 128256), True),
    "mistral-7b-v0.3": _known("mistral", (4096, 32, 32, 8, 14336, 32768), False),
}


def read_shape(model: str, rank: int) -> ModelShape:
    """Return the sizes of a model folder, from its config.json, or of a model known by name. Raise UserError."""
    folder = model_folder(model)
    if not (folder / "config.json").is_file():
        name = _nearest_known(model)
        return _shape(name, AutoConfig.for_model(**KNOWN[name]), rank)
    check_model_config(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return replace(_shape(model, config, rank), limit=context_limit(config))
    except UserError:
        raise
    except Exception as error:  # transformers refuses a configuration in many ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: its config.json cannot be read ({reason}); copy the model folder again") from error


def _nearest_known(model: str) -> str:
    """Return the known model whose name the folder's name begins with."""
    folder = model.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower().removeprefix("meta-")
    found = [name for name in KNOWN if folder == name or folder.startswith(f"{name}-")]
    if not found:
        raise UserError(
            f"{model or 'model.path'}: no model folder here (config.json is missing), and not a model known by name; "
            f"give --model a folder or one of {', '.join(KNOWN)}"
        )
    return max(found, key=len)


def _shape(name: str, config: PretrainedConfig, rank: int) -> ModelShape:
    if config.model_type not in DENSE:
        raise UserError(f"{name}: model_type {config.model_type} cannot be planned; use one of {', '.join(DENSE)}")
    counts = _count(config, rank)
    heads = config.num_attention_heads
    return ModelShape(
        name, config.model_type, config.num_hidden_layers, config.hidden_size, heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        config.intermediate_size, config.vocab_size, *counts,
    )  # fmt: skip


def _count(config: PretrainedConfig, rank: int) -> tuple[int, int, int, str]:
    """Return the parameters of the base, of its layers and of one adapter, and which layers that adapts.

    They are counted on the modules of a run, on the meta device, where none has data.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        check_architecture(model)
        parameters = sum(p.numel() for p in model.parameters())
        inside = sum(p.numel() for p in model.get_decoder().layers.parameters())
        adapted = lora.add_adapters(model, rank, 1.0, seed=0, roles=("policy",))
        described = lora.describe_targets(model)
    return parameters, inside, sum(p.numel() for p in lora.parameters_of(adapted, "policy")), described
