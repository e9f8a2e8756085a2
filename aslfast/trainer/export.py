"""Take an adapter home: as a PEFT folder, or merged into its base as a Hugging Face model of its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from aslfast.files.atomic import atomic_folder
from aslfast.models import lora
from aslfast.models.base_model import load_base

# a base's own tokenizer and licence, copied byte for byte: transformers would write a rebuilt one
COPIED = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*", "LICENSE*",
)  # fmt: skip
NOTE = "README.md"


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """An adapter and what it belongs to."""

    base: Path
    base_name: str  # as the PEFT folder and the note name it
    adapter: Path
    role: str
    origin: str  # for the note: lines of a Markdown list


def export_adapter(source: AdapterSource, out: Path) -> None:
    """Write a PEFT folder that names its base, and a note. Raise UserError, OSError; all or nothing."""
    lora.adapter_shape(source.adapter)  # readable
    config = json.loads((source.adapter / lora.CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = source.base_name
    with atomic_folder(out) as partial:
        shutil.copyfile(source.adapter / lora.WEIGHTS, partial / lora.WEIGHTS)
        (partial / lora.CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        usage = 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "FOLDER")'
        _write_note(partial, source, f"A LoRA adapter in PEFT's format. Load it with `{usage}`.")


def export_merged(source: AdapterSource, out: Path, dtype: torch.dtype) -> None:
    """Write the base with the adapter's weights added, W + alpha / rank B A, in `dtype`; all or nothing.

    Config, generation settings and tokenizer are the base's. Raise UserError, OSError.
    """
    rank, alpha = lora.adapter_shape(source.adapter)
    base, _ = load_base(source.base, dtype)
    model = lora.add_adapters(base, rank, alpha, 0, (source.role,))
    lora.load_adapter(model, source.role, source.adapter)
    merged = model.merge_and_unload()
    with atomic_folder(out) as partial:
        try:
            merged.save_pretrained(partial)  # pyright: ignore[reportCallIssue]  # PEFT returns the base
        except SafetensorError as error:  # what safetensors raises on a full disk
            raise OSError(str(error)) from error
        for pattern in COPIED:
            for file in source.base.glob(pattern):
                shutil.copyfile(file, partial / file.name)
        _write_note(partial, source, "A model by itself: transformers, SGLang and vLLM load the folder as it is.")


def hub_name(base: Path) -> str:
    """Return the name on the Hugging Face hub of a base in its cache, else the path of its folder."""
    cached = [part for part in base.resolve().parts if part.startswith("models--")]
    return cached[-1].removeprefix("models--").replace("--", "/") if cached else str(base)


def _write_note(folder: Path, source: AdapterSource, what: str) -> None:
    text = f"# {source.role}\n\n{what}\n\n- base: {source.base_name}\n{source.origin}"
    (folder / NOTE).write_text(text, encoding="utf-8")
