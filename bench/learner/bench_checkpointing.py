"""What each kind of activation checkpointing costs and saves: seconds and peak memory of a learner's step.

    python -m bench.learner.bench_checkpointing --out bench/results/checkpointing-cpu.json

A model in the proportions of Qwen2.5-7B (hidden to intermediate, heads to key heads), an eighth of its width, random
weights and tokens: what is measured are the ratios of the kinds, in turns, in one run. Seconds are the processor's (one
thread), so that other work on the machine does not count; memory is that of the tensors alive at once, counted as they
are allocated, beyond the weights and the optimizer's state.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers

from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.learner.learner import Learner
from aslfast.models import lora
from bench.learner.trajectory_lengths import trajectories
from bench.learner.variants import ROLE, Side, StepData
from bench.shared.device_time import seconds_of
from bench.shared.live_memory import LiveMemory
from bench.shared.results import write_result
from bench.shared.stamp import ROOT, quantiles, stamp

Kind = Literal["none", "selective", "layers"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHAPE: dict[str, Any] = {
    "hidden_size": 448, "intermediate_size": 2368, "num_hidden_layers": 8, "num_attention_heads": 7,
    "num_key_value_heads": 1, "vocab_size": 1024, "max_position_embeddings": 4096,
}  # fmt: skip
SPANS = [0, 128, 128, 128, 128]  # shares nothing; prompt, sampled, passages, sampled


def sides_of(tokens: int) -> dict[Kind, Side]:
    """Return the step with each kind, over one model; a micro-batch has `tokens` tokens."""
    torch.manual_seed(0)
    base = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE)).eval()
    model = lora.add_adapters(base, 16, 32.0, 0, (ROLE,))

    def learner(kind: Kind) -> Learner:
        config = LearnerConfig(learning_rate=1e-12, micro_batch_tokens=tokens, activation_checkpointing=kind)
        return Learner(model, config, LossConfig(), 1.0, (ROLE,))

    return {kind: Side(learner(kind)) for kind in KINDS}


def peak_tensor_bytes(side: Side, data: StepData) -> int:
    """Return the peak memory of a step's tensors."""
    side.step(data)  # allocates the optimizer's state
    model, states = side.learner.model, side.learner.optimizers[ROLE].state.values()
    known = [*model.parameters(), *model.buffers(), *(value for state in states for value in state.values())]
    with LiveMemory(known) as memory:
        side.step(data)
    return memory.peak


def measure(tokens: int, repeats: int) -> dict[str, Any]:
    """Return seconds and peak memory by kind, and both relative to no checkpointing."""
    data = StepData.alternating(trajectories([SPANS] * (tokens // sum(SPANS)), SHAPE["vocab_size"], 0))
    sides = sides_of(tokens)
    peak = {kind: peak_tensor_bytes(side, data) for kind, side in sides.items()}
    seconds: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind, side in sides.items():
            seconds[kind].append(seconds_of(lambda side=side: side.step(data), "cpu"))
    found: dict[str, Any] = {
        kind: {"seconds": quantiles(seconds[kind]), "peak_mib": round(peak[kind] / 2**20)} for kind in KINDS
    }
    for measured in found.values():
        measured["times"] = round(measured["seconds"]["median"] / found["none"]["seconds"]["median"], 2)
        measured["memory"] = round(measured["peak_mib"] / found["none"]["peak_mib"], 2)
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048, help=f"in a step; at least {sum(SPANS)}")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_checkpointing.json")
    args = parser.parse_args()
    stamped = stamp("checkpointing", args.allow_dirty)
    torch.set_num_threads(1)
    kinds = measure(args.tokens, args.repeats)
    write_result(args.out, {**stamped, "shape": SHAPE, "tokens": args.tokens, "n": args.repeats, "kinds": kinds})
    for kind, found in kinds.items():
        print(f"{kind}: {found['times']} times the time, {found['memory']} of the peak ({found['peak_mib']} MiB)")


if __name__ == "__main__":
    main()
