"""A base model, opened from a local folder: the model, with its weights or with placeholders, and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from aslfast.errors import UserError
from aslfast.files.shipped import LAB_BASES
from aslfast.models.base_source import BaseSource
from aslfast.models.base_weights import BaseWeights, placeholder
from aslfast.models.folder_check import check_model_folder
from aslfast.models.tokenizer import load_tokenizer
from aslfast.models.weight_files import WeightFiles

LoadedModel = tuple[PreTrainedModel, dict[str, Any]]  # the model, transformers' report of its keys


def model_folder(path: str) -> Path:
    """Return the folder that a configuration's model.path names; "lab" and "lab2" are those of the lab."""
    return LAB_BASES.get(path, Path(path))


def load_base(
    path: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu", source: BaseSource = "loaded"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return (model on `device`, tokenizer) of a local folder; nothing is fetched. Raise UserError.

    source: a model that is not "loaded" has placeholders until `BaseWeights` brings its weights.
    """
    folder, device = Path(path), resolve_device(device)
    check_model_folder(folder)
    try:
        tokenizer = load_tokenizer(folder)
        loaded = load_with_weights(folder, dtype) if source == "loaded" else load_without_weights(folder, dtype, device)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:300]
        suggestion = "it needs safetensors weights and a tokenizer"
        raise UserError(f"{folder}: the model cannot be loaded ({reason}); {suggestion}") from error
    model, report = loaded
    _check_complete(folder, tokenizer, report)
    model.eval().to(device)  # pyright: ignore[reportArgumentType]  # transformers' decorator hides the signature
    return model, tokenizer


def resolve_device(name: str) -> str:
    """Return the device of model.device; "auto" is the GPU where there is one. Raise UserError for a missing GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is cuda, but torch sees no GPU here; use auto or cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def load_with_weights(folder: Path, dtype: torch.dtype) -> LoadedModel:
    """Load the model on the CPU; no pickle is read."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=dtype,
        output_loading_info=True,
    )  # fmt: skip
    return loaded


def load_without_weights(folder: Path, dtype: torch.dtype, device: str) -> LoadedModel:
    """Load the model with placeholders on `device`; its buffers and settings are those of a loaded model."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    state = {name: placeholder(shape, dtype, "cpu") for name, shape in WeightFiles(folder).shapes().items()}
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
    )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    BaseWeights(model, folder).release(device)  # before the model is moved, which would give placeholders memory
    return model, report


def _check_complete(folder: Path, tokenizer: PreTrainedTokenizerBase, report: dict[str, Any]) -> None:
    """Raise UserError where files do not match: transformers goes on with an empty tokenizer, random weights, or less
    than the files hold.
    """
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise UserError(f"{folder}: the tokenizer has no vocabulary; add the model's tokenizer.json")
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(f"{folder}: weights are missing ({missing}); copy the model folder again, complete")
    if report["unexpected_keys"]:
        left = ", ".join(sorted(report["unexpected_keys"])[:3])
        what = f"its files hold weights that the model of its config.json has no place for ({left})"
        raise UserError(f"{folder}: {what}; without them it is another model: copy config.json and weights together")
