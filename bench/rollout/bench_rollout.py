r"""Rollouts of one generator step: without barriers, and as others play them. The same trajectories for every variant.

    python -m bench.rollout.bench_rollout --sampler sglang --out bench/results/rollout-cpu.json
    python -m bench.rollout.bench_rollout --model random-7b --device cuda --dtype bfloat16 --size 7b \
        --max-running-requests 128 --out bench/results/rollout-h100.json
    python -m bench.rollout.bench_rollout --sampler local --model random-tiny --size rehearsal --repeats 1 --allow-dirty

ours             one engine, three adapters; a question's attempts start when it is written, a verdict when its attempt
                 is done; the concurrency limit keeps as many trajectories running as the engine has slots
barriers         the same engine; all questions, then all attempts, then all verdicts, turn by turn: all wait for the
                 slowest turn, and then for the slowest search
no prefix cache  ours, without reuse of prefixes
engine per role  ours on three engines of a third of the slots, one a role
merged weights   an engine without adapters, each role's merged into its weights: the roles in three stages, without a
                 barrier inside one; the weights of a stage are loaded when it begins, at no cost here

Every variant other than barriers is measured in turns with ours, in one run; engines that are not measured are stopped
meanwhile. All engines share one core on a CPU (--no-pin: all cores), as they would share a GPU. Lengths are forced: see
long_tailed.py.

Metrics: sampled tokens/s; trajectories/s; slots_idle: the fraction of slot-time without a request (1 - slots in use, on
average); below_capacity and empty: the fraction of wall time with fewer requests than slots (queued ones count as
running), and with none, averaged over engines where there are several; reused_of_reusable: the fraction of reusable
tokens that was reused (aslfast/sampler/prefix_cache_stats.py); seconds of a trajectory from its first request to its
last, p50 and p99.

On a GPU every engine takes --gpu-memory of it: two at once (barriers, no prefix cache), four for the other variants,
and the trainer's copy of the base as well: a 7B base needs a GPU of 140 GB for all, one of 80 GB for the first two
(0.3).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aslfast.cli.progress import quiet_libraries
from bench.rollout.bases import SHAPES
from bench.rollout.engines import awake, clear_cache, pin
from bench.rollout.setups import SIZES, RolloutSetup, open_setup
from bench.rollout.variants import OURS, VARIANTS, Variant, open_variant
from bench.shared.results import write_result
from bench.shared.stamp import quantiles, stamp, versions_of

SETTING = ("prompts_per_step", "group_size", "rollouts_per_question", "self_checks")


def play_once(setup: RolloutSetup, variant: Variant) -> dict[str, float]:
    """Return the metrics of one step."""
    step = setup.step(variant.sampler, variant.adapters)
    for engine in variant.engines:
        clear_cache(engine)
    for engine in variant.engines:
        engine.restart()
    started = time.perf_counter()
    asyncio.run(variant.play(step))
    seconds = time.perf_counter() - started
    occupancy, reuse = variant.occupancy(seconds), list(step.prefix_cache.take().values())
    played = step.rollout.played
    tokens, took = sum(one.sampled_tokens for one in played), [one.seconds for one in played]
    return {
        "seconds": seconds,
        "tokens": tokens,
        "trajectories": len(played),
        "tokens_per_s": tokens / seconds,
        "trajectories_per_s": len(played) / seconds,
        "slots_idle": 1 - occupancy.slots,
        "below_capacity": occupancy.below_capacity,
        "empty": occupancy.empty,
        "context_tokens": sum(r.context for r in reuse),
        "reusable": sum(r.reusable for r in reuse),
        "reused": sum(r.reused for r in reuse),
        "reused_of_reusable": 1 - sum(r.missed for r in reuse) / max(1, sum(r.reusable for r in reuse)),
        "p50_s": float(np.quantile(took, 0.5)),
        "p99_s": float(np.quantile(took, 0.99)),
    }


def measure(setup: RolloutSetup, names: Sequence[str], repeats: int, pinned: bool) -> dict[str, Any]:
    """Measure every variant in turns with ours. A ratio is of two neighbours in time."""
    factory = setup.factory
    ours = factory.with_adapters(setup.config.sampler.max_running_requests)
    runs: dict[str, list[dict[str, float]]] = {OURS: []}
    ratios: dict[str, list[float]] = {}
    for name in names:
        pair = {OURS: open_variant(factory, OURS, ours), name: open_variant(factory, name, ours)}
        if pinned:
            pin([engine for variant in pair.values() for engine in variant.engines])
        for repeat in range(-1, repeats):  # the first warms up
            metrics = {side: _play_awake(setup, side, variant) for side, variant in pair.items()}
            if repeat >= 0:
                for side, found in metrics.items():
                    runs.setdefault(side, []).append(found)
                ratios.setdefault(name, []).append(metrics[OURS]["tokens_per_s"] / metrics[name]["tokens_per_s"])
        for engine in pair[name].engines:
            if engine is not ours:
                engine.close()
    assert len({run["tokens"] for side in runs.values() for run in side}) == 1, "the variants did different work"
    metrics = {side: _summary(found) for side, found in runs.items() if found}
    return {"metrics": metrics, "ours_against": {name: quantiles(found) for name, found in ratios.items()}}


def _play_awake(setup: RolloutSetup, name: str, variant: Variant) -> dict[str, float]:
    with awake(variant.engines):
        metrics = play_once(setup, variant)
    print(f"{name}: {metrics['tokens_per_s']:.0f} tokens/s", file=sys.stderr)
    return metrics


def _summary(found: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {key: quantiles([metrics[key] for metrics in found]) for key in found[0]}


def arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler", choices=("local", "sglang"), default="sglang")
    parser.add_argument("--model", choices=("lab", *SHAPES), default="lab")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--gpu-memory", type=float, default=0.2, help="fraction of the GPU for each engine")
    parser.add_argument("--max-running-requests", type=int, default=16, help="slots of an engine")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="engines on all cores")
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Run from the command line."""
    args = arguments()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("bench_rollout: not measured: no CUDA device")
        return
    stamped = stamp("rollout", args.allow_dirty)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        setup = open_setup(args, Path(folder))
        with setup.factory.closing:
            found = measure(setup, args.variants, args.repeats, args.pin and args.device == "cpu")
    generator = {key: getattr(setup.config.generator, key) for key in SETTING}
    setting = {key: getattr(args, key) for key in ("sampler", "model", "dtype", "max_running_requests")} | generator
    if args.device == "cuda":
        stamped["device"] = torch.cuda.get_device_name()
    result = {**stamped, "versions": versions_of(torch), "n": args.repeats, "setting": setting,
              "seed": setup.config.seed, "lengths": asdict(setup.lengths), **found}  # fmt: skip
    if args.out:
        write_result(args.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
