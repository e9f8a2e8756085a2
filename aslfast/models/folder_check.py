"""What is wrong with a model folder, told before transformers guesses: it would ask, ignore or go on with noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from aslfast.errors import UserError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
ADAPTER, TOKENIZER = "adapter_config.json", "tokenizer_config.json"
CODE = "needs Python code that comes with it (auto_map), which is never run"  # transformers would ask on stdout


def check_model_folder(folder: Path) -> None:
    """Raise UserError for a folder that holds no model, or not the causal LM that it seems to hold."""
    check_model_config(folder)
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.model")]):
        _check_pointer(file)
    if (folder / ADAPTER).is_file():
        what = f"holds an adapter ({ADAPTER}) beside the model, and it is not clear which is meant"
        raise UserError(f"{folder}: {what}; move it to a folder of its own and name that as roles.<role>.init_adapter")
    needs_code = "auto_map" in _read_json(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else False
    if needs_code and not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder}: its tokenizer {CODE}; add the model's tokenizer.json")


def check_model_config(folder: Path) -> None:
    """Raise UserError where config.json is missing, damaged, or not that of a causal LM which transformers knows."""
    file = folder / "config.json"
    if not file.is_file():
        suggestion = "name a folder that holds a Hugging Face model"
        raise UserError(f"{folder}: no model here (config.json is missing); {suggestion}")
    _check_pointer(file)
    config = _read_json(file)
    kind = config.get("model_type")
    if "auto_map" in config and kind not in CONFIG_MAPPING:
        raise UserError(f"{folder}: model_type {kind} {CODE}; use a model that transformers itself supports")
    _check_causal(folder, config)


def _check_pointer(file: Path) -> None:
    """Raise UserError for a file that Git LFS has not fetched: a few lines of text in place of its content."""
    with file.open("rb") as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{file}: a pointer of Git LFS, not the file itself; run git lfs pull in its folder")


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        reason = f"its {file.name} cannot be read ({error})"
        raise UserError(f"{file.parent}: {reason}; copy the model folder again") from error
    if not isinstance(config, dict):
        raise UserError(f"{file.parent}: its {file.name} holds no settings; copy the model folder again")
    return config


def _check_causal(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError for a masked language model: loaded as a causal one it looks at what it should predict."""
    names, kind = [str(name) for name in config.get("architectures") or ()], str(config.get("model_type"))
    masked = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in names)
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_encoder_decoder")
    if masked or (encoder and not config.get("is_decoder")):
        what = f"a masked language model ({', '.join(names) or kind}), which sees the tokens after those it predicts"
        raise UserError(f"{folder}: {what}; use a causal language model")
