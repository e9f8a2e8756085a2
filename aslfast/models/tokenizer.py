"""The tokenizer of a model folder, as its own file defines it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load tokenizer.json as it is: AutoTokenizer rebuilds it by the model's type, with another pre-tokenizer.

    Nothing is fetched. Raise what transformers raises.
    """
    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
