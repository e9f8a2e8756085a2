"""What the benchmark of rollouts measures: sizes of a step, and what all variants share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from aslfast.config import RunConfig, load_recipe
from aslfast.core import Task
from aslfast.index.bm25 import BM25Index
from aslfast.lab.world import World
from aslfast.models import lora
from aslfast.models.base_model import load_base
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.rollout.multi_turn import Limits
from aslfast.sampler.protocol import Sampler
from aslfast.trainer.build import build_search_tool
from bench.rollout.bases import randomize_adapters, save_endless_base
from bench.rollout.engines import EngineFactory
from bench.rollout.lengths import Lengths
from bench.rollout.long_tailed import LongTailed
from bench.rollout.schedules import ForcedStep


def _size(prompts_per_step: int, group_size: int, rollouts_per_question: int, self_checks: int) -> list[str]:
    return [
        f"generator.prompts_per_step={prompts_per_step}",
        f"generator.group_size={group_size}",
        f"generator.rollouts_per_question={rollouts_per_question}",
        f"generator.self_checks={self_checks}",
    ]


SIZES = {  # of the generator's step: prompts, questions a prompt, attempts and self checks a question
    "full": _size(6, 2, 5, 3),
    "small": _size(3, 2, 3, 2),
    "rehearsal": _size(2, 1, 2, 1),
    "7b": _size(16, 4, 10, 5),
}
LONG = Lengths(median_tokens=80.0, max_tokens=1024, max_total=4096)  # of a 7B model


@dataclass(frozen=True)
class RolloutSetup:
    """What all variants share."""

    config: RunConfig
    tokenizer: PreTrainedTokenizerBase
    factory: EngineFactory
    index: BM25Index
    topics: Sequence[str]
    lengths: Lengths

    def step(self, sampler: Sampler, adapters: bool = True) -> ForcedStep:
        """Return a new step over a sampler; every repeat has the same tasks and seeds."""
        limits = Limits(max_context=self.config.sampler.max_context)
        tool, temperature = build_search_tool(self.config, self.index), self.config.sampler.temperature
        chat = Chat(self.tokenizer)
        rollout = LongTailed(sampler, tool, chat, limits, temperature, lengths=self.lengths, adapters=adapters)
        return ForcedStep.of(self.config, rollout, self.tasks())

    def tasks(self) -> list[Task]:
        """Return the generator's tasks of the step."""
        builder, count = PromptBuilder("compact"), self.config.generator.prompts_per_step
        return [builder.generator(f"g{i}", self.topics[i], i % 3 + 1) for i in range(count)]


def open_setup(args: argparse.Namespace, work: Path) -> RolloutSetup:
    """Open what the command line names; `work` is an empty folder for its files."""
    lengths, max_context = (LONG, 8192) if args.model == "random-7b" else (Lengths(), 1024)
    overrides = [
        *SIZES[args.size], f"sampler.kind={args.sampler}",
        f"sampler.max_running_requests={args.max_running_requests}", f"sampler.max_context={max_context}",
        f"model.dtype={args.dtype}", f"model.device={args.device}", "sampler.share_base=false",
        f"sampler.gpu_memory_fraction={args.gpu_memory}", "tool.top_k=1", "generator.min_acceptance=0",
    ]  # fmt: skip
    config = load_recipe("tiny", overrides)
    folder = save_endless_base(args.model, args.dtype, args.device, work / "base")
    config = replace(config, model=replace(config.model, path=str(folder)), threads=1)
    torch.set_num_threads(1)
    base, tokenizer = load_base(folder, getattr(torch, args.dtype), args.device)
    tokenizer.eos_token = None
    model = lora.add_adapters(base, config.lora.rank, config.lora.alpha, 0)
    randomize_adapters(model, 0)
    world = World.make(0, "train")
    index = BM25Index.build(world.passages(), work / "index", threads=1)
    factory = EngineFactory(config, model, tokenizer, work)
    return RolloutSetup(config, tokenizer, factory, index, sorted(world.facts), lengths)
