"""Starts the samplers under test over one base, pauses those that are not measured, and pins them to a core."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aslfast.config import RunConfig
from aslfast.models.base_model import load_base
from aslfast.sampler.protocol import Sampler
from aslfast.sampler.sglang.sampler import SGLangSampler
from aslfast.trainer.build import build_sampler
from bench.rollout.bases import save_merged_base
from bench.rollout.occupancy import OccupancyMeter


class EngineFactory:
    """Starts samplers over one base with three adapters and closes them together. Engines are paused while unused."""

    def __init__(self, config: RunConfig, model: PeftModel, tokenizer: PreTrainedTokenizerBase, work: Path) -> None:
        self.config, self.model, self.tokenizer, self.work = config, model, tokenizer, work
        self.closing = ExitStack()

    def with_adapters(self, n_slots: int, prefix_cache: bool = True) -> OccupancyMeter:
        """Return one engine with three adapters."""
        sampler = replace(self.config.sampler, max_running_requests=n_slots, radix_cache=prefix_cache)
        return OccupancyMeter(self._start(replace(self.config, sampler=sampler), self.model), n_slots)

    def merged(self, role: str, n_slots: int) -> OccupancyMeter:
        """Return an engine without adapters, over a base into which the role's adapter is merged."""
        folder = self.work / f"merged-{role}"
        if not folder.exists():
            save_merged_base(Path(self.config.model.path), self.model, role, folder)
        config = replace(
            self.config, model=replace(self.config.model, path=str(folder)),
            sampler=replace(self.config.sampler, max_running_requests=n_slots),
        )  # fmt: skip
        model, _ = load_base(folder, getattr(torch, config.model.dtype), config.model.device)
        return OccupancyMeter(self._start(config, model), n_slots)

    def _start(self, config: RunConfig, model: PeftModel | PreTrainedModel) -> Sampler:
        sampler = build_sampler(config, model, self.tokenizer, self.work / "engine.log")
        self.closing.callback(sampler.close)
        sampler.start()
        _signal(sampler, signal.SIGSTOP)
        return sampler


@contextmanager
def awake(engines: Sequence[OccupancyMeter]) -> Iterator[None]:
    """Let these engines run; the others stay stopped, since an idle engine would use its part of the cores."""
    for engine in engines:
        _signal(engine.sampler, signal.SIGCONT)
    try:
        yield
    finally:
        for engine in engines:
            _signal(engine.sampler, signal.SIGSTOP)


def clear_cache(engine: OccupancyMeter) -> None:
    """Drop what the engine has cached."""
    if isinstance(engine.sampler, SGLangSampler):
        engine.sampler.running_engine().call("flush_cache")
    else:
        engine.sampler.flush()


def pin(engines: Sequence[OccupancyMeter]) -> None:
    """Pin all threads of all engines to the last core; this process keeps the others."""
    cores = sorted(os.sched_getaffinity(0))
    for engine in engines:
        for pid in _processes(engine.sampler):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), cores[-1:])


def _processes(sampler: Sampler) -> Sequence[int]:
    return sampler.running_engine().pids if isinstance(sampler, SGLangSampler) else ()


def _signal(sampler: Sampler, number: int) -> None:
    for pid in _processes(sampler):
        os.kill(pid, number)
