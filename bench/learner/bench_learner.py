"""The learner's step, packed, against a padded one, in one run on the lengths of real trajectories.

    python -m bench.learner.bench_learner --out bench/results/learner.json                        # a CPU, the lab's tiny base
    python -m bench.learner.bench_learner --shape qwen2.5-7b --out bench/results/learner_7b.json   # a GPU, random weights
    python -m bench.learner.bench_learner --shape qwen2.5-7b --small                               # a rehearsal on a CPU

Sides: packed with common prefixes computed once; packed without; padded as TRL does it (bench/learner/padded_step.py), in the
order of sampling and sorted by length. All take the same step: their gradients are compared first. Reported: live and
all tokens a second (all: of the trajectories, shared or not), FLOPs that the side cannot do without
(bench/learner/flops.py) as a share of the rate of one large product measured here, peak memory of a step beyond what
stood before it, and the parts of a step. Sides run in turn; medians. Seconds on a CPU are the processor's (one thread),
so that a busy machine does not count; on a GPU those of the clock on the wall.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.core import Trajectory
from aslfast.learner.batch import make_batch, micro_batches
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.base_model import LAB_BASE, load_base
from bench.learner.flops import step_flops
from bench.learner.padded_step import PaddedStep
from bench.learner.tables import step_lines
from bench.learner.trajectory_lengths import load, trajectories
from bench.learner.variants import ROLE, Clock, Side
from bench.shared.peak_memory import peak_bytes
from bench.shared.stamp import ROOT, quantiles, stamp

TEMPERATURE, LOSS = 1.0, LossConfig()
SHAPES = ROOT / "bench" / "shapes"


@dataclass(frozen=True)
class Setup:
    """What is measured: a base, and the lengths of the trajectories."""

    lengths: str  # file of shapes
    rank: int
    micro_batch_tokens: int
    padded_rows: int  # of a padded micro-batch
    checkpointing: str = "none"
    base: dict[str, int] = field(default_factory=dict)  # of Qwen2Config; none: the lab's own


SETUPS = {
    "tiny": Setup("tiny_policy.json", 16, 4096, 8),
    "qwen2.5-7b": Setup("search.json", 32, 16384, 8, "layers", {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064,
    }),
}  # fmt: skip
REHEARSAL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512,
}  # fmt: skip


def base_of(setup: Setup, device: str) -> Any:
    if not setup.base:
        return load_base(LAB_BASE, torch.float32, device)[0]
    config = transformers.Qwen2Config(**setup.base, max_position_embeddings=32768)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return transformers.Qwen2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def sides_of(setup: Setup, model: Any) -> dict[str, Side]:
    def learner(share: str) -> Learner:
        # a learning rate that leaves the weights where they are: every repeat is the same step
        config = LearnerConfig(
            learning_rate=1e-12, micro_batch_tokens=setup.micro_batch_tokens, share_prefix=share,
            activation_checkpointing=setup.checkpointing,
        )  # fmt: skip
        return Learner(model, config, LOSS, TEMPERATURE, (ROLE,))

    def padded(by_length: bool) -> Side:
        clip = (LOSS.clip_low, LOSS.clip_high)
        return Side(learner("never"), PaddedStep(model, TEMPERATURE, setup.padded_rows, by_length, clip))

    return {
        "packed, shared": Side(learner("auto")),
        "packed": Side(learner("never")),
        "padded by length": padded(True),
        "padded": padded(False),
    }


def on_policy(learner: Learner, made: list[Trajectory]) -> list[Trajectory]:
    """With the model's own log-probs as the sampler's: ratios are 1 and no token is clipped."""
    learner.model.set_adapter(ROLE)
    found = []
    for t in made:
        with torch.no_grad():
            logp = iter(learner.logprobs(make_batch([t], [0.0]).to(learner.model.device)).tolist())
        found.append(replace(t, logprobs=tuple(next(logp) if live else 0.0 for live in t.loss_mask)))
    return found


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product, the best of ten: what shares are of."""
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        clock = Clock(device)
        clock.timed("product", lambda: a @ b)()
        seconds.append(clock.seconds["product"])
    return 2 * n**3 / min(seconds)


def work_of(name: str, side: Side, made: list[Trajectory]) -> dict[str, float]:
    """What the side must do: tokens through the model, and FLOPs. A padded side is not charged for its padding."""
    share = side.learner.config.share_prefix if name.startswith("packed") else "never"
    parts = list(micro_batches(made, [0.0] * len(made), side.learner.config.micro_batch_tokens, share))
    tokens, live = sum(len(p.input_T) for p in parts), sum(len(p.source_L) for p in parts)
    flops = step_flops(side.learner.model, tokens, live, sum(p.segments.pairs for p in parts), ROLE)
    return {"forward_tokens": tokens, "flops": flops}


def measure(args: argparse.Namespace, setup: Setup, device: str) -> dict[str, Any]:
    base = base_of(setup, device)
    model = lora.add_adapters(base, setup.rank, 2.0 * setup.rank, 0, (ROLE,))
    torch.nn.init.normal_(lora.parameters_of(model, ROLE)[1], std=0.01)  # B of the first layer: no zero gradients
    sides = sides_of(setup, model)
    origin, steps = load(SHAPES / setup.lengths)
    shapes = steps[args.step][: 3 if args.small else None]
    made = on_policy(sides["packed"].learner, trajectories(shapes, base.config.vocab_size, args.seed))
    advantages = [1.0 if i % 2 else -1.0 for i in range(len(made))]
    seconds, rows = run_in_turn(args, sides, made, advantages, device), []
    rate, live = product_rate(device, base.dtype), sum(t.n_sampled for t in made)
    whole = sum(len(t.token_ids) - 1 for t in made)
    for name, side in sides.items():
        median, work = statistics.median(seconds[name]), work_of(name, side, made)
        figures = {"live_tokens_per_s": live / median, "all_tokens_per_s": whole / median}
        figures |= {"share_of_product_rate": work["flops"] / median / rate}
        peak = peak_bytes(lambda side=side: side.step(made, advantages), device) / 2**20
        parts = side.parts(made, advantages, Clock(device))
        rows.append({
            "side": name, "seconds": quantiles(seconds[name]), "peak_mib": round(peak, 1), **rounded(work),
            **rounded(figures), "parts_s": rounded(parts),
        })  # fmt: skip
    counts = {"trajectories": len(made), "loss_tokens": live, "all_tokens": whole, "lengths": origin}
    return {"product_flops_per_s": float(f"{rate:.4g}"), "attention": sides["packed"].learner.attention, **counts,
            "largest_gradient_difference": differences(sides, made, advantages), "rows": rows}  # fmt: skip


def run_in_turn(
    args: argparse.Namespace, sides: dict[str, Side], made: list[Trajectory], advantages: list[float], device: str
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(args.repeats + 1):
        for name, side in sides.items():
            clock = Clock(device)
            clock.timed("step", side.step)(made, advantages)
            if repeat:  # the first warms up
                seconds[name].append(clock.seconds["step"])
    return seconds


def differences(sides: dict[str, Side], made: list[Trajectory], advantages: list[float]) -> dict[str, float]:
    """Of each side's gradient from that of "packed", as a share of its largest element."""
    gradients = {name: side.taken_gradient(made, advantages) for name, side in sides.items()}
    one = gradients["packed"]
    return {name: float(f"{float((g - one).abs().max() / one.abs().max()):.2g}") for name, g in gradients.items()}


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SETUPS), default="tiny")
    parser.add_argument("--small", action="store_true", help="a rehearsal: a small model, few trajectories, no file")
    parser.add_argument("--step", type=int, default=0, help="which step of the file of lengths")
    for name, default in {"repeats": 5, "seed": 0, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_learner.json")
    args = parser.parse_args()
    setup, device = SETUPS[args.shape], "cuda" if torch.cuda.is_available() and args.shape != "tiny" else "cpu"
    if setup.base and device == "cpu" and not args.small:
        print(f"bench_learner: {args.shape} not measured: no CUDA device; --small rehearses it on a CPU")
        return
    torch.set_num_threads(args.threads)
    if args.small and setup.base:
        setup = replace(setup, base=REHEARSAL, micro_batch_tokens=4096, padded_rows=2)
    stamped = stamp("learner", args.allow_dirty or args.small)
    result = {**stamped, "shape": args.shape, "rehearsal": args.small, **measure(args, setup, device)}
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    options = {"seed": args.seed, "n": args.repeats, "threads": args.threads, "step": args.step}
    result |= {"versions": versions, **options, "rank": setup.rank, "micro_batch_tokens": setup.micro_batch_tokens,
               "padded_rows": setup.padded_rows, "checkpointing": setup.checkpointing}  # fmt: skip
    if device == "cuda":
        result["device"] = torch.cuda.get_device_name()
    if not args.small:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2) if args.small else "\n".join(step_lines(result)))


if __name__ == "__main__":
    main()
