"""The samplers under test: what they are made of, and how full they were."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from aslfast.config import RunConfig
from aslfast.core import ROLES
from aslfast.models import lora
from aslfast.models.base_model import LAB_BASE, load_base
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import Sample, Sampler, SampleRequest
from aslfast.sampler.sglang.sampler import SGLangSampler
from aslfast.trainer.build import build_sampler

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


def endless_base(name: str, dtype: str, device: str, folder: Path) -> Path:
    """The lab's base, or a randomly initialised one over its tokenizer, without any token that ends a turn."""
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


@dataclass
class Watched:
    """A sampler, and how full it was: requests under way, queued ones included, against the rows it has."""

    sampler: Sampler
    rows: int
    under_way: int = 0
    since: float = field(default_factory=time.perf_counter)
    empty_s: float = 0.0
    below_s: float = 0.0
    filled_s: float = 0.0  # integral of the share of rows in use

    async def generate(self, request: SampleRequest) -> Sample:
        self._count(+1)
        try:
            return await self.sampler.generate(request)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        now = time.perf_counter()
        passed, self.since = now - self.since, now
        self.empty_s += passed * (self.under_way == 0)
        self.below_s += passed * (self.under_way < self.rows)
        self.filled_s += passed * min(self.under_way, self.rows) / self.rows
        self.under_way += change

    def restart(self) -> None:
        self.since, self.empty_s, self.below_s, self.filled_s = time.perf_counter(), 0.0, 0.0, 0.0

    def shares(self, seconds: float) -> dict[str, float]:
        """Of the time since `restart`: without a request, with fewer than rows, and rows in use on average."""
        self._count(0)
        return {"empty": self.empty_s / seconds, "below": self.below_s / seconds, "rows": self.filled_s / seconds}

    def release(self, session: str) -> None:
        self.sampler.release(session)

    def abort(self, session: str) -> None:
        self.sampler.abort(session)


@dataclass
class Forgetful(Watched):
    """The local sampler without reuse: a session's row is freed after every turn."""

    async def generate(self, request: SampleRequest) -> Sample:
        sample = await super().generate(request)
        self.sampler.release(request.session)
        return sample


@dataclass
class ByRole:
    """One sampler a role. `role_of` tells whose request it is where no adapter is named."""

    samplers: Mapping[str, Watched]
    role_of: Callable[[SampleRequest], str]

    async def generate(self, request: SampleRequest) -> Sample:
        return await self.samplers[self.role_of(request)].generate(request)

    def release(self, session: str) -> None:
        for sampler in self.samplers.values():
            sampler.release(session)

    def abort(self, session: str) -> None:
        for sampler in self.samplers.values():
            sampler.abort(session)


class Makers:
    """Makes samplers over one base with three adapters, and ends them together. Engines are paused while unused."""

    def __init__(self, config: RunConfig, model: Any, tokenizer: Any, work: Path) -> None:
        self.config, self.model, self.tokenizer, self.work = config, model, tokenizer, work
        self.closing = ExitStack()

    def shared(self, rows: int, radix: bool = True) -> Watched:
        """One engine, three adapters."""
        config = replace(
            self.config, sampler=replace(self.config.sampler, max_running_requests=rows, radix_cache=radix)
        )
        sampler = self._started(config, self.model)
        kind = Forgetful if config.sampler.kind == "local" and not radix else Watched
        return kind(sampler, rows)

    def merged(self, role: str, rows: int) -> Watched:
        """An engine without adapters over a base into which the role's adapter is merged."""
        folder = self.work / f"merged-{role}"
        if not folder.exists():
            base = Path(self.config.model.path)
            shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
            merged_base(base, self.model, role).save_pretrained(folder)
            shutil.copy(base / "config.json", folder / "config.json")
        config = replace(
            self.config, model=replace(self.config.model, path=str(folder)),
            sampler=replace(self.config.sampler, max_running_requests=rows),
        )  # fmt: skip
        model, _ = load_base(folder, getattr(torch, config.model.dtype), config.model.device)
        return Watched(self._started(config, model), rows)

    def _started(self, config: RunConfig, model: Any) -> LocalSampler | SGLangSampler:
        sampler = build_sampler(config, model, self.tokenizer, self.work / "engine.log")
        self.closing.callback(sampler.close)
        if isinstance(sampler, SGLangSampler):
            sampler.start()
            pause(sampler)
        return sampler


def merged_base(base: Path, model: Any, role: str) -> Any:
    """A fresh base with the role's weights added: W + (alpha / r) B A."""
    plain, _ = load_base(base, model.dtype, "cpu")
    weights = dict(plain.named_parameters())
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "get_delta_weight"):
            weights[f"{name}.weight"].data += module.get_delta_weight(role).detach().to(weights[f"{name}.weight"])
    return plain


def pause(sampler: Any) -> None:
    _signal(sampler, signal.SIGSTOP)


@contextmanager
def awake(samplers: Sequence[Watched]):
    """These engines run; the others stay stopped, since an idle engine would take its share of the cores."""
    for watched in samplers:
        _signal(watched.sampler, signal.SIGCONT)
    try:
        yield
    finally:
        for watched in samplers:
            pause(watched.sampler)


def _signal(sampler: Any, number: int) -> None:
    if isinstance(sampler, SGLangSampler):
        for pid in sampler.running_engine().pids:
            os.kill(pid, number)


def give_adapters_weight(model: Any, seed: int) -> None:
    """Adapters start as the base; these differ from it and from each other, as trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    for role in ROLES:
        for parameter in lora.parameters_of(model, role):
            noise = torch.randn(parameter.shape, generator=generator) * 0.01
            parameter.data += noise.to(parameter)
