"""The learner's step, packed, against a padded one, in one run on the lengths of real trajectories.

    python -m bench.learner.bench_learner --out bench/results/learner-cpu.json            # a CPU, the lab's tiny base
    python -m bench.learner.bench_learner --shape qwen2.5-7b --out bench/results/learner-gpu.json   # random weights
    python -m bench.learner.bench_learner --shape qwen2.5-7b --small                      # a rehearsal on a CPU

Sides: packed with common prefixes computed once; packed without; padded as TRL does it (padded_step.py), in sampling
order and sorted by length. All take the same step: their gradients are compared. Reported: loss tokens and all
tokens per second (all: of the trajectories, shared or not); the FLOPs that a side cannot do without
(aslfast/speed.py) as a fraction of the rate of one large matrix product measured here; the peak memory of a step beyond
what was allocated before it; the parts of a step. Sides run in turn; medians. Seconds on a CPU are the processor's (one
thread), so that other work on the machine does not count; on a GPU they are wall time.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from aslfast.learner.batch import micro_batches
from aslfast.speed import matmul_flops_per_s, step_flops
from bench.learner.setups import SETUPS, Setup, adapted_model, on_policy, sides_of
from bench.learner.tables import step_lines
from bench.learner.trajectory_lengths import load, trajectories
from bench.learner.variants import ROLE, Side, StepData
from bench.shared.device_time import seconds_of
from bench.shared.peak_memory import peak_bytes
from bench.shared.results import write_result
from bench.shared.stamp import ROOT, four_digits, quantiles, stamp, versions_of

SHAPES = ROOT / "bench" / "shapes"


def measure(args: argparse.Namespace, setup: Setup, device: str) -> dict[str, Any]:
    """Return the measurements of all sides."""
    model = adapted_model(setup, device)
    sides = sides_of(setup, model)
    origin, steps = load(SHAPES / setup.lengths)
    made = trajectories(
        steps[args.step][: args.trajectories or (3 if args.small else None)], model.config.vocab_size, args.seed
    )
    data = StepData.alternating(on_policy(sides["packed"].learner, made))
    seconds = run_in_turn(sides, data, args.repeats, device)
    rate = matmul_flops_per_s(device, model.dtype, seconds_of)
    rows = [{"side": name, **row_of(name, sides[name], data, seconds[name], rate)} for name in sides]
    return {
        "matmul_flops_per_s": four_digits(rate), "attention": sides["packed"].learner.attention,
        "trajectories": len(made), "loss_tokens": data.loss_tokens, "all_tokens": all_tokens(data), "lengths": origin,
        "largest_gradient_difference": gradient_differences(sides, data), "rows": rows,
    }  # fmt: skip


def run_in_turn(sides: dict[str, Side], data: StepData, repeats: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of each side's steps, one of every side after the other; the first of each warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, side in sides.items():
            took = seconds_of(lambda side=side: side.step(data), device)
            if repeat:
                seconds[name].append(took)
    return seconds


def row_of(name: str, side: Side, data: StepData, seconds: list[float], matmul_rate: float) -> dict[str, Any]:
    """Return what was measured of one side."""
    device, median, work = side.learner.model.device.type, statistics.median(seconds), work_of(name, side, data)
    rates = {
        "loss_tokens_per_s": data.loss_tokens / median,
        "all_tokens_per_s": all_tokens(data) / median,
        "matmul_utilization": work["flops"] / median / matmul_rate,
    }
    peak_mib = peak_bytes(lambda: side.step(data), device) / 2**20
    return {
        "seconds": quantiles(seconds), "peak_mib": round(peak_mib, 1), **rounded(work), **rounded(rates),
        "parts_s": rounded(side.part_seconds(data, device)),
    }  # fmt: skip


def work_of(name: str, side: Side, data: StepData) -> dict[str, float]:
    """Return the side's tokens through the model, and its FLOPs. A padded side is not charged for its padding."""
    learner = side.learner
    share = learner.config.share_prefix if name.startswith("packed") else "never"
    parts = list(micro_batches(data.trajectories, data.advantages, learner.config.micro_batch_tokens, share))
    tokens, loss_tokens = sum(len(p.input_T) for p in parts), sum(len(p.source_L) for p in parts)
    flops = step_flops(learner.model, tokens, loss_tokens, sum(p.segments.pairs for p in parts), ROLE)
    return {"forward_tokens": tokens, "flops": flops}


def all_tokens(data: StepData) -> int:
    """Return how many tokens have a prediction, with a loss or not."""
    return sum(len(t.token_ids) - 1 for t in data.trajectories)


def gradient_differences(sides: dict[str, Side], data: StepData) -> dict[str, float]:
    """Return how far each side's gradient is from that of "packed", relative to its largest element."""
    gradients = {name: side.gradient(data) for name, side in sides.items()}
    one = gradients["packed"]
    return {name: float(f"{float((g - one).abs().max() / one.abs().max()):.2g}") for name, g in gradients.items()}


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Return the values, each to four digits."""
    return {name: four_digits(value) for name, value in values.items()}


def arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SETUPS), default="tiny")
    parser.add_argument("--small", action="store_true", help="a rehearsal: a small model, few trajectories, no file")
    parser.add_argument("--step", type=int, default=0, help="which step of the file of lengths")
    parser.add_argument("--trajectories", type=int, help="only the first of the step")
    for name, default in {"repeats": 5, "seed": 0, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_learner.json")
    return parser.parse_args()


def main() -> None:
    """Run from the command line."""
    args = arguments()
    setup, device = SETUPS[args.shape], "cuda" if torch.cuda.is_available() and args.shape != "tiny" else "cpu"
    if setup.base and device == "cpu" and not args.small:
        print(f"bench_learner: {args.shape} not measured: no CUDA device; --small rehearses it on a CPU")
        return
    torch.set_num_threads(args.threads)
    setup = setup.rehearsal() if args.small else setup
    stamped = stamp("learner", args.allow_dirty or args.small)
    result = {
        **stamped, "shape": args.shape, "rehearsal": args.small, **measure(args, setup, device),
        "versions": versions_of(torch, transformers, peft), "seed": args.seed, "n": args.repeats,
        "threads": args.threads, "step": args.step, "rank": setup.rank,
        "micro_batch_tokens": setup.micro_batch_tokens, "padded_rows": setup.padded_rows,
        "activation_checkpointing": setup.activation_checkpointing,
    }  # fmt: skip
    if device == "cuda":
        result["device"] = torch.cuda.get_device_name()
    if args.small:
        print(json.dumps(result, indent=2))
    else:
        write_result(args.out, result)
        print("\n".join(step_lines(result)))


if __name__ == "__main__":
    main()
