"""One full ASL round by part: generator, GRM and policy phase; rollout, tool, reward, learn, sync, commit.

    python -m bench.round.bench_round --out bench/results/round-cpu.json                        # a CPU, the lab's tiny base
    python -m bench.round.bench_round --set sampler.kind=sglang --out runs/round-engine.json    # with the engine
    python -m bench.round.bench_round --shape qwen2.5-7b --out bench/results/round_7b.json      # a GPU, random weights
    python -m bench.round.bench_round --shape qwen2.5-7b --small                                # a rehearsal on a CPU

The real engine runs rounds of a recipe under a clock (round_parts.py). The first round pays for starting up and is not
measured; the next --repeats are. They are different work, since the roles have learnt meanwhile: so the tables show the
round whose time is the median, whole, and the file holds all. Of each phase:

    rollout   sampling, from a step's start to its last group, less what follows
    tool      searches; with an engine they run in threads beside the rollout, and stand outside the sum
    reward    rewards, labels, the reading of verdicts
    learn     the learner's step: forward, head, backward, optimizer, packing and loss
    sync      adapters to the sampler, and the proof that it serves them
    commit    trajectories, weights and moments, ledger
    monitor   a step's figures for the monitor
    rest      tasks, advantages, lines of metrics

Both the seconds on the wall and the processor's are in the file. The tables' parts and rates are of the processor's
where one process does all on a CPU, so that a busy machine does not count (nor does waiting for the disk: commit); else
of those on the wall. What an engine's processes take, seconds and memory, is not counted. FLOPs are those that the
learner cannot do without (learner_flops.py; the base's own forward pass for a KL left out), as a share of the rate of
one large product measured here.

A base of random weights ends no turn, so there lengths and outputs are forced (rollout_workload.py), and all else is
real.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from aslfast.checkpoint.run_dir import RunDir
from aslfast.cli.progress import quiet_libraries
from aslfast.config import RunConfig, load_recipe
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.rounds import commit
from aslfast.rounds.context import Loop
from aslfast.rounds.round import run_round
from aslfast.trainer.build import (
    build_rollout,
    build_sampler,
    build_search_tool,
    check_context,
    init_adapters,
    load_base_model,
    prepare_torch,
    weight_sync_check,
)
from aslfast.trainer.datasets import file_datasets
from aslfast.trainer.lab_datasets import lab_datasets
from aslfast.trainer.provenance import provenance_of
from bench.learner.bench_learner import product_rate
from bench.learner.flops import step_flops
from bench.learner.tables import round_lines
from bench.rollout.engines import endless_base
from bench.rollout.workload import Lengths, LongTailed
from bench.round.parts import PhaseRecord, recorded
from bench.shared.part_clock import Seconds, now_on
from bench.shared.peak_memory import peak_bytes
from bench.shared.stamp import ROOT, quantiles, stamp


@dataclass(frozen=True)
class Setup:
    """What a shape lays over the recipe. lengths: forced ones, where the base has random weights."""

    overrides: tuple[str, ...]
    base: str = ""  # a name of rollout_engines.SHAPES; empty: the recipe's own
    lengths: Lengths | None = None


FEW = (
    "generator.steps=1", "generator.prompts_per_step=4", "generator.group_size=3", "generator.rollouts_per_question=2", "generator.self_checks=1",
    "generator.min_acceptance=0", "generator.hops=[1]", "grm.steps=1", "grm.prompts_per_step=2", "grm.group_size=3",
    "grm.label=reference", "policy.steps=1", "policy.prompts_per_step=2", "policy.group_size=3",
)  # fmt: skip
ON_A_GPU = (
    "generator.steps=1", "generator.prompts_per_step=16", "generator.group_size=4", "generator.rollouts_per_question=10",
    "generator.self_checks=5", "generator.min_acceptance=0", "grm.steps=2", "grm.prompts_per_step=32", "grm.group_size=4",
    "policy.steps=2", "policy.prompts_per_step=32", "policy.group_size=4", "model.device=cuda", "model.dtype=bfloat16",
    "sampler.kind=sglang", "sampler.max_running_requests=128", "sampler.max_context=8192", "lora.rank=32", "lora.alpha=64.0",
    "learner.micro_batch_tokens=16384", "learner.activation_checkpointing=layers", "learner.learning_rate=3e-5", "tool.top_k=1",
)  # fmt: skip
SETUPS = {
    "tiny": Setup(("threads=1",)),
    "qwen2.5-7b": Setup(ON_A_GPU, "random-7b", Lengths(median_tokens=80.0, most_tokens=1024, most_in_all=4096)),
}
REHEARSALS = {
    "tiny": Setup(("threads=1", *FEW)),
    "qwen2.5-7b": Setup(("threads=1", *FEW, "sampler.max_context=1024", "tool.top_k=1"), "random-tiny", Lengths()),
}


def configured(recipe: str, setup: Setup, overrides: list[str], folder: Path) -> RunConfig:
    config = load_recipe(recipe, [*setup.overrides, *overrides])
    if not setup.base:
        return config
    base = endless_base(setup.base, config.model.dtype, config.model.device, folder / "base")
    return replace(config, model=replace(config.model, path=str(base)))


@contextmanager
def opened(config: RunConfig, folder: Path, lengths: Lengths | None = None) -> Iterator[Loop]:
    """A new run, as `train` begins it, before its first round."""
    prepare_torch(config)
    base, tokenizer = load_base_model(config)
    check_context(base, config)
    model = lora.add_adapters(base, config.lora.rank, config.lora.alpha, config.seed, config.adapters)
    init_adapters(model, config)
    learner = Learner(model, config.learner, config.loss, config.sampler.temperature, config.adapters)
    environment = lab_datasets(config, folder / "lab") if config.data.lab else file_datasets(config)
    if lengths:
        tokenizer.eos_token = None
    with ExitStack() as stack:
        sampler = build_sampler(config, model, tokenizer, folder / "engine.log", told)
        stack.callback(sampler.close)
        sampler.start()
        rollout = build_rollout(config, sampler, tokenizer, build_search_tool(config, environment.index))
        rollout = LongTailed(**vars(rollout), lengths=lengths) if lengths else rollout
        run = stack.enter_context(RunDir.create(folder / "run", config))
        loop = Loop(
            config, rollout, learner, run, environment.topics, sampler.flush, lambda _: None, told,
            environment.labelled, weight_sync_check(sampler, model, tokenizer, config), environment.train_oracle,
        )  # fmt: skip
        commit.begun(loop, provenance_of(config))
        loop.flush()
        loop.prove()
        yield loop


def told(text: str) -> None:
    print(f"bench_round: {text}", file=sys.stderr, flush=True)


def play(loop: Loop, number: int) -> None:
    loop.round, loop.seconds = number, 0.0
    asyncio.run(run_round(loop))


def measured(loop: Loop, number: int, rate: float) -> dict[str, Any]:
    """One round: its phases, and its peak memory beyond what stood before it."""
    device = loop.learner.model.device.type
    with recorded(loop, now_on(device)) as phases:
        peak = peak_bytes(lambda: play(loop, number), device) / 2**20
    took = Seconds()
    for record in phases.values():
        took = took.plus(record.took)
    told(f"round {number}: {took.wall:.0f} s, {took.processor:.0f} s of the processor")
    rows = [phase_row(loop, name, record, rate) for name, record in phases.items()]
    return {"round": number, **split(took), "peak_mib": round(peak, 1), "phases": rows}


def phase_row(loop: Loop, name: str, record: PhaseRecord, rate: float) -> dict[str, Any]:
    parts, clock = record.parts(), clock_of(loop)
    sampling_s, learning_s = (getattr(parts[part], clock) for part in ("rollout", "learn"))
    sampled = sum(line["sampled_tokens"] for line in record.lines)
    flops = step_flops(loop.learner.model, record.forward_tokens, record.loss_tokens, record.pairs, name)
    return {
        "phase": name, "steps": len(record.lines), **split(record.took),
        "parts": {part: split(seconds) for part, seconds in parts.items()},
        "learn_parts": {part: split(seconds) for part, seconds in record.learn_parts().items()},
        "tool_overlapped_s": round(record.tool_overlapped_s, 4), "rollouts": record.rollouts,
        "trajectories": sum(line["trajectories"] for line in record.lines), "sampled_tokens": sampled,
        "forward_tokens": record.forward_tokens, "loss_tokens": record.loss_tokens, "learn_flops": flops,
        "sampled_tokens_per_s": per(sampled, sampling_s), "live_tokens_per_s": per(record.loss_tokens, learning_s),
        "share_of_product_rate": per(flops / rate, learning_s),
    }  # fmt: skip


def clock_of(loop: Loop) -> str:
    """Whose seconds the rates are of."""
    alone = loop.learner.model.device.type == "cpu" and loop.config.sampler.kind == "local"
    return "processor" if alone else "wall"


def split(seconds: Seconds) -> dict[str, float]:
    return {"wall_s": round(seconds.wall, 4), "processor_s": round(seconds.processor, 4)}


def per(amount: float, seconds: float) -> float | None:
    """None for a phase that has no such part."""
    return float(f"{amount / seconds:.4g}") if seconds else None


def measure(config: RunConfig, lengths: Lengths | None, repeats: int, folder: Path) -> dict[str, Any]:
    with opened(config, folder, lengths) as loop:
        base = loop.learner.base
        rate = product_rate(base.device.type, base.dtype)
        play(loop, 1)
        rounds = [measured(loop, number, rate) for number in range(2, repeats + 2)]
        seconds = [one[f"{clock_of(loop)}_s"] for one in rounds]
        shown = rounds[seconds.index(statistics.median_low(seconds))]["round"]
        device = {"device": torch.cuda.get_device_name()} if base.device.type == "cuda" else {}
        return {
            **device, "product_flops_per_s": float(f"{rate:.4g}"), "attention": loop.learner.attention,
            "rates_of": clock_of(loop), "seconds": quantiles(seconds), "shown": shown, "rounds": rounds,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SETUPS), default="tiny")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--set", action="append", default=[], help="key=value of the recipe")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are measured, after one that is not")
    parser.add_argument("--small", action="store_true", help="a rehearsal on a CPU: small sizes, no file")
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_round.json")
    args = parser.parse_args()
    setup = (REHEARSALS if args.small else SETUPS)[args.shape]
    if args.shape != "tiny" and not args.small and not torch.cuda.is_available():
        print(f"bench_round: {args.shape} not measured: no CUDA device; --small rehearses it on a CPU")
        return
    stamped = stamp("round", args.allow_dirty or args.small)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        config = configured(args.recipe, setup, args.set, Path(folder))
        found = measure(config, setup.lengths, args.repeats, Path(folder))
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    result = {
        **stamped, "shape": args.shape, "rehearsal": args.small, "recipe": args.recipe, "set": args.set,
        "sampler": config.sampler.kind, "threads": config.threads, "seed": config.seed, "n": args.repeats,
        "versions": versions, **found,
    }  # fmt: skip
    if not args.small:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2) if args.small else "\n".join(round_lines(result)))


if __name__ == "__main__":
    main()
