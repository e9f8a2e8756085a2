"""Sampled tokens per second of a policy that searches: groups of samples that read the same passages.

    python -m bench.groups.bench_groups --model smollm2 --demos demos.parquet --index idx \
        --out bench/results/groups-cpu.json

`--questions` groups of `--group` samples run at once: prompt, a turn, `--searches` observations of `--top-k` passages
with a turn after each (traffic.py). Sides, in turns in one process, on one thread:

before    the local sampler of `--before`: a session reuses its own tokens, and no other's
now       the local sampler of this commit
generate  `model.generate`: one padded batch a turn, which keeps nothing for the next one
sglang    the engine on one core, with its prefix cache (--without sglang where it is not installed)

Every side samples from the full softmax at --temperature, with one adapter: a random one of rank 16, whose samples
disagree at once, or that of a trained policy (--adapter), whose samples agree as they do in a run. Caches are dropped
before each repeat. tokens_per_cpu_s counts processor time, of sides in this process, which a busy machine moves less.
The first token of a turn counts as decoded. `moved`: the largest difference of a log-prob between now and before, over
the samples whose tokens are equal, and how many are.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from aslfast.cli.progress import quiet_libraries
from aslfast.config import load_recipe
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import Sample, Sampler
from bench.groups.sides import endless_copy, generate, load_model, sampler_of
from bench.groups.traffic import Conversation, open_recordings, play, sampled_tokens
from bench.rollout.engines import EngineFactory, awake, clear_cache, pin
from bench.shared.results import write_result
from bench.shared.stamp import ROOT, four_digits, quantiles, stamp, versions_of

SIDES = ("before", "now", "generate", "sglang")
SHAPE = ("questions", "group", "searches", "top_k", "most_new")
Found = list[list[Sample]] | None
Side = Callable[[Sequence[Conversation], int], Found]  # conversations, group size


def local_side(sampler: Sampler, temperature: float) -> Side:
    """Return a side that plays conversations on a local sampler without anything cached."""

    def run(conversations: Sequence[Conversation], group: int) -> Found:
        sampler.flush()
        return play(sampler, conversations, group, temperature)

    return run


def engine_side(args: argparse.Namespace, opened: tuple[Any, Any], work: Path, closing: ExitStack) -> Side:
    """Return a side that plays them on SGLang, which is stopped meanwhile."""
    overrides = [
        "sampler.kind=sglang", f"sampler.temperature={args.temperature}", f"model.path={work / 'base'}",
        "model.dtype=float32", f"sampler.max_context={args.max_context}", "threads=1", "sampler.share_base=false",
        f"lora.rank={opened[0].peft_config['policy'].r}",
        "model.device=cpu",
    ]  # fmt: skip
    factory = EngineFactory(load_recipe("tiny", overrides), *opened, work)
    closing.enter_context(factory.closing)
    engine = factory.with_adapters(args.questions * args.group)
    pin([engine])

    def run(conversations: Sequence[Conversation], group: int) -> Found:
        with awake([engine]):
            clear_cache(engine)
            return play(engine, conversations, group, args.temperature)

    return run


def open_sides(
    args: argparse.Namespace, work: Path, closing: ExitStack
) -> tuple[dict[str, Side], list[Conversation]]:  # fmt: skip
    """Return every side by name, and what they play."""
    opened = load_model(endless_copy(args.model, work / "base"), 16, args.adapter)
    model, tokenizer = opened
    recordings = open_recordings(args.demos, args.index, tokenizer, args.top_k)
    size = {"max_running_requests": args.questions * args.group, "max_context": args.max_context}
    openers: dict[str, Callable[[], Side]] = {
        "before": lambda: local_side(sampler_of(args.before, work)(model, tokenizer, **size), args.temperature),
        "now": lambda: local_side(LocalSampler(model, tokenizer, **size), args.temperature),
        "generate": lambda: partial(generate, model, args.temperature),
        "sglang": lambda: engine_side(args, opened, work, closing),
    }
    sides = {name: openers[name]() for name in SIDES if name not in args.without}
    return sides, recordings.conversations(args.questions, args.searches, args.most_new)


def warm_up(side: Side, conversations: Sequence[Conversation]) -> None:
    """Play one small group."""
    turns = tuple(replace(turn, n_new=2) for turn in conversations[0].turns)
    side([Conversation(turns)], 2)


def measure(
    sides: dict[str, Side], conversations: Sequence[Conversation], group: int, repeats: int
) -> dict[str, Any]:  # fmt: skip
    """Return the metrics of each side over interleaved repeats, after a small group to warm up."""
    n_tokens = sampled_tokens(conversations, group)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    cpu_rates: dict[str, list[float]] = {name: [] for name in sides}
    last: dict[str, Found] = {}
    for side in sides.values():
        warm_up(side, conversations)
    for _ in range(repeats):
        for name, side in sides.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            last[name] = side(conversations, group)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            print(f"{name}: {n_tokens / seconds:.1f} tokens/s, {n_tokens / cpu_seconds:.1f} a cpu s", file=sys.stderr)
            rates[name].append(n_tokens / seconds)
            cpu_rates[name].append(n_tokens / cpu_seconds)
    return {
        "tokens_per_s": {name: quantiles(found) for name, found in rates.items()},
        "tokens_per_cpu_s": {name: quantiles(found) for name, found in cpu_rates.items() if name != "sglang"},
        "now_against": _ratios(rates),
        "now_against_cpu": _ratios({name: found for name, found in cpu_rates.items() if name != "sglang"}),
        "moved": _moved(last.get("before"), last["now"]),
    }


def _ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return quantiles of the ratios of neighbours in time."""
    return {
        name: quantiles([now / other for now, other in zip(rates["now"], found, strict=True)])
        for name, found in rates.items()
        if name != "now"
    }


def _moved(before: Found, now: Found) -> dict[str, float]:
    """Compare the samples of the same seeds."""
    pairs = [pair for a, b in zip(before or [], now or [], strict=False) for pair in zip(a, b, strict=True)]
    same = [(a, b) for a, b in pairs if a.token_ids == b.token_ids]
    moved = [abs(x - y) for a, b in same for x, y in zip(a.logprobs, b.logprobs, strict=True)]
    return {"samples": len(pairs), "same_tokens": len(same), "logprob": four_digits(max(moved, default=0.0))}


def arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "demos", "index"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    counts = {"questions": 4, "group": 8, "searches": 1, "top-k": 1, "most-new": 256, "max-context": 2048, "repeats": 3}
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--adapter", type=Path, help="folder of a trained policy's adapter")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--before", default="652095d", help="commit of the sampler to compare with")
    parser.add_argument("--without", nargs="*", choices=SIDES, default=[])
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_groups.json")
    return parser.parse_args()


def main() -> None:
    """Run from the command line."""
    args = arguments()
    stamped = stamp("groups", args.allow_dirty)
    quiet_libraries()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        sides, conversations = open_sides(args, Path(folder), closing)
        found = measure(sides, conversations, args.group, args.repeats)
    shape = {key: getattr(args, key) for key in SHAPE} | {"model": args.model.name, "before": args.before}
    shape |= {"temperature": args.temperature, "adapter": "trained" if args.adapter else "random"}
    versions = versions_of(torch, transformers, peft)
    result = {**stamped, "threads": 1, "versions": versions, "shape": shape, "n": args.repeats, "seed": 0,
              "tokens": sampled_tokens(conversations, args.group), **found}  # fmt: skip
    write_result(args.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
