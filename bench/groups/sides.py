"""The samplers that are compared: of a commit before, of today, `model.generate`, and SGLang."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from aslfast.models import lora
from aslfast.models.base_model import load_base
from bench.groups.traffic import Conversation
from bench.rollout.bases import randomize_adapters
from bench.shared.stamp import ROOT

PACKAGE = "aslfast/sampler/local"
BEFORE = "sampler_before"


def endless_copy(base: Path, folder: Path) -> Path:
    """Copy a base without the tokens that end a turn, so that every turn has the length that was recorded."""
    shutil.copytree(base, folder)
    for file in (folder / "config.json", folder / "generation_config.json"):
        if file.exists():
            file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": None}))
    return folder


def load_model(folder: Path, rank: int, policy: Path | None = None) -> tuple[PeftModel, Any]:
    """Return the base with three adapters unlike it and each other, and its tokenizer.

    policy: the folder of a trained policy's adapter, in place of such a one.
    """
    base, tokenizer = load_base(folder, torch.float32, "cpu")
    tokenizer.eos_token = None
    rank, alpha = lora.adapter_shape(policy) if policy else (rank, 2.0 * rank)
    model = lora.add_adapters(base, rank, alpha, 0)
    randomize_adapters(model, 0)
    if policy:
        lora.load_adapter(model, "policy", policy)
    model.set_adapter("policy")
    return model, tokenizer


def sampler_of(commit: str, folder: Path) -> Any:
    """Return the class LocalSampler as it was at a commit, as a package of its own; the rest is today's."""
    names = subprocess.run(
        ["git", "ls-tree", "--name-only", commit, PACKAGE + "/"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    package = folder / BEFORE
    package.mkdir(parents=True)
    for name in names:
        text = subprocess.run(["git", "show", f"{commit}:{name}"], cwd=ROOT, check=True, capture_output=True, text=True)
        # Its own name for its attention as well: transformers keeps one table of them.
        source = text.stdout.replace("aslfast.sampler.local", BEFORE).replace("aslfast_grouped", f"{BEFORE}_grouped")
        (package / Path(name).name).write_text(source)
    sys.path.insert(0, str(folder))
    return importlib.import_module(f"{BEFORE}.sampler").LocalSampler


def generate(model: PeftModel, temperature: float, conversations: Sequence[Conversation], group_size: int) -> None:
    """Sample turn after turn with `model.generate`: one batch a turn, padded on the left, as long as its longest."""
    for turns in zip(*(conversation.turns for conversation in conversations), strict=True):
        contexts = [turn.token_ids for turn in turns for _ in range(group_size)]
        width, n_new = max(map(len, contexts)), max(turn.n_new for turn in turns)
        ids = torch.tensor([[0] * (width - len(c)) + list(c) for c in contexts])
        mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts])
        sampling = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": temperature, "pad_token_id": 0}
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=n_new, **sampling)
        assert out.shape[1] == width + n_new
