"""One full ASL round by part: generator, GRM and policy phase; rollout, tool, reward, learn, sync, commit.

    python -m bench.round.bench_round --out bench/results/round-cpu.json                      # a CPU, the tiny base
    python -m bench.round.bench_round --set sampler.kind=sglang --out runs/round-engine.json  # with the engine
    python -m bench.round.bench_round --shape qwen2.5-7b --out bench/results/round-gpu.json   # a GPU, random weights
    python -m bench.round.bench_round --shape qwen2.5-7b --small                              # a rehearsal on a CPU

The real engine runs rounds of a recipe under a clock (parts.py). The first round pays for start-up and is not measured;
the next --repeats are. They are different work, since the roles have learned meanwhile: so the tables show the round of
the median time, whole, and the file has all. Of each phase:

    rollout   sampling, from a step's start to its last group, without what follows
    tool      searches; with an engine they run in threads during the rollout, and are not in the sum
    reward    rewards, labels, parsing of verdicts
    learn     the learner's step: forward, head, backward, optimizer, packing and loss
    sync      adapters to the sampler, and the check that it serves them
    commit    trajectories, weights and moments, ledger
    monitor   a step's metrics for the monitor
    rest      tasks, advantages, records

The file has both wall time and processor time. The tables' parts and rates are of processor time where one process does
everything on a CPU, so that other work on the machine does not count (nor does waiting for the disk: commit); else of
wall time. What an engine's processes take, seconds and memory, is not counted. FLOPs are those that the learner cannot
do without (aslfast/speed.py; the base's own forward pass for a KL left out), as a fraction of the rate of one
large matrix product measured here.

A base of random weights ends no turn, so there lengths and outputs are forced (bench/rollout/long_tailed.py); all else
is real.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, Literal

import peft
import torch
import transformers

from aslfast.cli.progress import quiet_libraries
from aslfast.clock import Seconds
from aslfast.config import RunConfig
from aslfast.rounds.context import RoundContext
from aslfast.speed import matmul_flops_per_s, step_flops
from bench.learner.tables import round_lines
from bench.rollout.lengths import Lengths
from bench.round.open_run import log, open_run, play_round
from bench.round.parts import PhaseRecord, recorded
from bench.round.setups import REHEARSALS, SETUPS
from bench.shared.device_time import now_on, seconds_of
from bench.shared.peak_memory import peak_bytes
from bench.shared.results import write_result
from bench.shared.stamp import ROOT, four_digits, quantiles, stamp, versions_of


def measure(config: RunConfig, lengths: Lengths | None, repeats: int, folder: Path) -> dict[str, Any]:
    """Return the measurements of `repeats` rounds."""
    with open_run(config, folder, lengths) as context:
        base: Any = context.learner.model.get_base_model()
        rate, clock = matmul_flops_per_s(base.device.type, base.dtype, seconds_of), clock_of(context)
        play_round(context, 1)
        rounds = [measure_round(context, number, rate) for number in range(2, repeats + 2)]
        seconds = [one[f"{clock}_s"] for one in rounds]
        shown = rounds[seconds.index(statistics.median_low(seconds))]["round"]
        device = {"device": torch.cuda.get_device_name()} if base.device.type == "cuda" else {}
        return {
            **device, "matmul_flops_per_s": four_digits(rate), "attention": context.learner.attention,
            "rates_of": clock, "seconds": quantiles(seconds), "shown": shown, "rounds": rounds,
        }  # fmt: skip


def measure_round(context: RoundContext, number: int, matmul_rate: float) -> dict[str, Any]:
    """Return one round's phases, and its peak memory beyond what was allocated before it."""
    device = context.learner.model.device.type
    with recorded(context, now_on(device)) as phases:
        peak_mib = peak_bytes(lambda: play_round(context, number), device) / 2**20
    took = Seconds()
    for record in phases.values():
        took = took.plus(record.took)
    log(f"round {number}: {took.wall:.0f} s, {took.processor:.0f} s of the processor")
    rows = [phase_row(context, name, record, matmul_rate) for name, record in phases.items()]
    return {"round": number, **both(took), "peak_mib": round(peak_mib, 1), "phases": rows}


def phase_row(context: RoundContext, name: str, record: PhaseRecord, matmul_rate: float) -> dict[str, Any]:
    """Return what a phase took and did."""
    parts, clock = record.parts(), clock_of(context)
    sampling_s, learning_s = (getattr(parts[part], clock) for part in ("rollout", "learn"))
    sampled = sum(step.counters.sampled_tokens for step in record.steps)
    flops = step_flops(context.learner.model, record.forward_tokens, record.loss_tokens, record.pairs, name)
    return {
        "phase": name, "steps": len(record.steps), **both(record.took),
        "parts": {part: both(seconds) for part, seconds in parts.items()},
        "learn_parts": {part: both(seconds) for part, seconds in record.learn_parts().items()},
        "tool_overlapped_s": round(record.tool_overlapped_s, 4), "rollouts": record.rollouts,
        "trajectories": sum(step.summary.trajectories for step in record.steps), "sampled_tokens": sampled,
        "forward_tokens": record.forward_tokens, "loss_tokens": record.loss_tokens, "learn_flops": flops,
        "sampled_tokens_per_s": rate_of(sampled, sampling_s),
        "loss_tokens_per_s": rate_of(record.loss_tokens, learning_s),
        "matmul_utilization": rate_of(flops / matmul_rate, learning_s),
    }  # fmt: skip


def clock_of(context: RoundContext) -> Literal["processor", "wall"]:
    """Return whose seconds the rates are of."""
    alone = context.learner.model.device.type == "cpu" and context.config.sampler.kind == "local"
    return "processor" if alone else "wall"


def both(seconds: Seconds) -> dict[str, float]:
    """Return wall time and processor time, rounded."""
    return {"wall_s": round(seconds.wall, 4), "processor_s": round(seconds.processor, 4)}


def rate_of(amount: float, seconds: float) -> float | None:
    """Return an amount per second; None for a phase that has no such part."""
    return four_digits(amount / seconds) if seconds else None


def arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SETUPS), default="tiny")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--set", action="append", default=[], help="key=value of the recipe")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are measured, after one that is not")
    parser.add_argument("--small", action="store_true", help="a rehearsal on a CPU: small sizes, no file")
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_round.json")
    return parser.parse_args()


def main() -> None:
    """Run from the command line."""
    args = arguments()
    setup = (REHEARSALS if args.small else SETUPS)[args.shape]
    if args.shape != "tiny" and not args.small and not torch.cuda.is_available():
        print(f"bench_round: {args.shape} not measured: no CUDA device; --small rehearses it on a CPU")
        return
    stamped = stamp("round", args.allow_dirty or args.small)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        config = setup.config(args.recipe, args.set, Path(folder))
        found = measure(config, setup.lengths, args.repeats, Path(folder))
    result = {
        **stamped, "shape": args.shape, "rehearsal": args.small, "recipe": args.recipe, "set": args.set,
        "sampler": config.sampler.kind, "threads": config.threads, "seed": config.seed, "n": args.repeats,
        "versions": versions_of(torch, transformers, peft), **found,
    }  # fmt: skip
    if args.small:
        print(json.dumps(result, indent=2))
    else:
        write_result(args.out, result)
        print("\n".join(round_lines(result)))


if __name__ == "__main__":
    main()
