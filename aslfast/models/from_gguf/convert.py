"""Convert a GGUF file to a Hugging Face model folder, which transformers, SGLang, vLLM and aslfast load."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from aslfast import __version__
from aslfast.errors import UserError
from aslfast.files.atomic import atomic_folder
from aslfast.files.checksum import sha256
from aslfast.models.from_gguf.header import GgufHeader, read_header
from aslfast.models.from_gguf.sources import GgufSource
from aslfast.models.from_gguf.tokenizer import eos_ids, make_tokenizer
from aslfast.models.weight_files import WeightFiles

RECORD = "source.json"  # where the folder's model comes from


def convert(source: GgufSource, out: Path, dtype: str) -> dict[str, Any]:
    """Write the model folder, all or nothing; return its record. Raise UserError, OSError."""
    with atomic_folder(out) as partial:
        unpacked = partial / "gguf"
        unpacked.mkdir()
        file = source.bring(unpacked)
        header = read_header(file, source.place)
        record = _origin(source, header, file)
        model, tokenizer = _load(header, file, getattr(torch, dtype))
        shutil.rmtree(unpacked)
        _set_special_ids(model, tokenizer, eos_ids(tokenizer, header))
        _write(model, tokenizer, partial)
        record |= _weights(header, partial, dtype)
        _write_licence(partial, source.licence, header)
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _origin(source: GgufSource, header: GgufHeader, file: Path) -> dict[str, Any]:
    return {
        "source": source.name,
        "gguf": source.gguf_name,
        "gguf_sha256": sha256(file),
        "name": header.text("general.name"),
        "architecture": header.text("general.architecture"),
        "quantisation": header.quantisation(),
        "licence": header.text("general.license"),
        "made_by": f"aslfast {__version__}, transformers {transformers.__version__}",
    }


def _load(header: GgufHeader, file: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return the model with dequantised weights, and its tokenizer. Raise UserError."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=dtype, local_files_only=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
            model, report = loaded
            tokenizer = make_tokenizer(header, model.config.model_type)
    except UserError:
        raise
    except Exception as error:  # whatever a file can make transformers, gguf, numpy and tokenizers stumble over
        suggestion = "it needs a sound GGUF file of a causal language model whose architecture transformers reads"
        raise UserError(f"{header.place}: cannot be converted ({_reason(error)}); {suggestion}") from error
    _check_model(header.place, model, report)
    _check_rotary(header, model)
    if len(tokenizer) > model.config.vocab_size:
        what = f"{len(tokenizer)} tokens, but {model.config.vocab_size} rows of embeddings"
        raise UserError(f"{header.place}: {what}; copy the file again, complete")
    return model.eval(), tokenizer


def _reason(error: Exception) -> str:
    if "ignore_mismatched_sizes" in str(error):  # transformers refers to a report that it logged
        return "the shapes of its weights are not those of its settings"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _check_model(place: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Raise UserError where a weight is missing, which transformers fills with noise, or is no number."""
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(f"{place}: weights are missing ({missing}); copy the file again, complete")
    broken = next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None)
    if broken:
        what = f"{broken} has values that are not finite in {str(model.dtype).removeprefix('torch.')}"
        raise UserError(f"{place}: {what}; use --dtype float32, or a sound file")


def _check_rotary(header: GgufHeader, model: PreTrainedModel) -> None:
    """Raise UserError where the file scales its rotary embeddings, and transformers did not take that over."""
    key = f"{header.text('general.architecture')}.rope.scaling.type"
    scaling = header.text(key) or "none"
    read = getattr(model.config, "rope_parameters", None) or {}
    if scaling != "none" and read.get("rope_type", "default") == "default":
        what = f"{key} is {scaling}, which transformers does not read: it would be another model"
        raise UserError(f"{header.place}: {what}; convert the model's own weights, not its GGUF file")


def _set_special_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, eos: list[int]) -> None:
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model.config.update(ids)
    model.generation_config = GenerationConfig(**ids)


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # what safetensors raises on a full disk
        raise OSError(str(error)) from error


def _weights(header: GgufHeader, folder: Path, dtype: str) -> dict[str, Any]:
    """Return the facts of the weights that were written. Raise UserError where they are not all of the file's."""
    files = WeightFiles(folder)
    parameters = files.n_parameters()
    if parameters != header.n_weights:
        what = f"its tensors hold {header.n_weights:,} numbers, transformers' model has a place for {parameters:,}"
        raise UserError(f"{header.place}: {what}: it would be another model; use one of an architecture it reads whole")
    return {"parameters": parameters, "dtype": dtype, "weights_sha256": files.sha256()}


def _write_licence(folder: Path, text: bytes, header: GgufHeader) -> None:
    """Write the licence that lay beside the GGUF file, else the file's own word for it; nothing where it says none."""
    text = text or (header.text("general.license") or "").encode()
    if text:
        (folder / "LICENSE").write_bytes(text.rstrip(b"\n") + b"\n")
