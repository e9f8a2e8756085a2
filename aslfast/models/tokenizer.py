"""The tokenizer of a model folder, as its own file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast


def load_tokenizer(folder: Path) -> Any:
    """tokenizer.json as it stands: AutoTokenizer rebuilds it by the model's type, with another pre-tokenizer.

    Nothing is fetched. Raises whatever transformers raises.
    """
    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    return kind.from_pretrained(folder, local_files_only=True)
