"""What each kind of activation checkpointing costs and saves: seconds and peak memory of a learner's step.

    python -m bench.learner.bench_checkpointing --out bench/results/checkpointing-cpu.json

A model in the proportions of Qwen2.5-7B (hidden to intermediate, heads to key heads), an eighth of its width, random
weights and tokens: the ratios of the kinds are what is measured, in turns, in one run. Seconds are the processor's (one
thread), so that a busy machine does not count; memory is that of the tensors that live at once, counted as they are
made, beyond the weights and the optimizer's state.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.core import Trajectory
from aslfast.learner.learner import Learner
from aslfast.models import lora
from bench.learner.trajectory_lengths import trajectories
from bench.learner.variants import ROLE, Clock, Side
from bench.shared.live_memory import LiveMemory
from bench.shared.stamp import ROOT, quantiles, stamp

KINDS = ("none", "selective", "layers")
SHAPE = {
    "hidden_size": 448, "intermediate_size": 2368, "num_hidden_layers": 8, "num_attention_heads": 7,
    "num_key_value_heads": 1, "vocab_size": 1024, "max_position_embeddings": 4096,
}  # fmt: skip
SPANS = [0, 128, 128, 128, 128]  # shares nothing; prompt, sampled, passages, sampled


def sides(tokens: int) -> dict[str, Side]:
    torch.manual_seed(0)
    base = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE)).eval()
    model = lora.add_adapters(base, 16, 32.0, 0, (ROLE,))

    def learner(kind: str) -> Learner:
        config = LearnerConfig(learning_rate=1e-12, micro_batch_tokens=tokens, activation_checkpointing=kind)
        return Learner(model, config, LossConfig(), 1.0, (ROLE,))

    return {kind: Side(learner(kind)) for kind in KINDS}


def peak_bytes(side: Side, made: list[Trajectory], advantages: list[float]) -> int:
    side.step(made, advantages)  # makes the optimizer's state
    model, states = side.learner.model, side.learner.optimizers[ROLE].state.values()
    known = [*model.parameters(), *model.buffers(), *(value for state in states for value in state.values())]
    with LiveMemory(known) as memory:
        side.step(made, advantages)
    return memory.peak


def measure(tokens: int, repeats: int) -> dict[str, Any]:
    made = trajectories([SPANS] * (tokens // sum(SPANS)), SHAPE["vocab_size"], 0)
    advantages = [1.0 if i % 2 else -1.0 for i in range(len(made))]
    kinds, seconds = sides(tokens), {kind: [] for kind in KINDS}
    peak = {kind: peak_bytes(side, made, advantages) for kind, side in kinds.items()}
    for _ in range(repeats):
        for kind, side in kinds.items():
            clock = Clock("cpu")
            clock.timed("step", side.step)(made, advantages)
            seconds[kind].append(clock.seconds["step"])
    found = {kind: {"seconds": quantiles(seconds[kind]), "peak_mib": round(peak[kind] / 2**20)} for kind in KINDS}
    for figures in found.values():
        figures["times"] = round(figures["seconds"]["median"] / found["none"]["seconds"]["median"], 2)
        figures["memory"] = round(figures["peak_mib"] / found["none"]["peak_mib"], 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_checkpointing.json")
    args = parser.parse_args()
    stamped = stamp("checkpointing", args.allow_dirty)
    torch.set_num_threads(1)
    result = {**stamped, "shape": SHAPE, "tokens": args.tokens, "n": args.repeats}
    result["kinds"] = measure(args.tokens, args.repeats)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    for kind, figures in result["kinds"].items():
        print(f"{kind}: {figures['times']} times the time, {figures['memory']} of the peak ({figures['peak_mib']} MiB)")


if __name__ == "__main__":
    main()
