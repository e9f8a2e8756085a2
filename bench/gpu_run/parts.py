"""The parts of `bench/on_gpu.sh`: what each runs, its limit in seconds, and its tiny version for a CPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PYTHON = (sys.executable, "-m")
TESTS = ("pytest", "-q", "--no-header", "-p", "no:cacheprovider", "--confcutdir=tests/kernels")
TRITON = "tests/kernels/triton"
# Every kernel, each dtype, and what only a GPU shows (peak memory, cooperative launches); not the interpreter's own.
ON_GPU = (f"{TRITON}/test_logprob_triton.py", f"{TRITON}/test_logprob_triton_cost.py")
ON_GPU += (f"{TRITON}/test_advantage_triton.py", f"{TRITON}/test_policy_loss_triton.py")
ON_GPU += ("tests/kernels/test_logprob_ops.py",)
ONE_ROUND = ("--set", "rounds=1", "--set", "model.device=cuda")
SMALL_ROUND = (
    "rounds=1 threads=1 data.eval_count=8 monitor.judge_probe=0 sampler.max_turns=2 sampler.max_new_tokens=12 "
    "generator.steps=1 generator.prompts_per_step=2 generator.group_size=2 generator.rollouts_per_question=2 "
    "grm.steps=1 grm.prompts_per_step=2 grm.group_size=2 policy.steps=1 policy.prompts_per_step=2 policy.group_size=2"
)


@dataclass(frozen=True)
class Part:
    """One part. `{out}` and `{commit}` in a command stand for the folder of results and the commit measured."""

    name: str
    limit_s: int
    command: Sequence[str]
    rehearsal: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    rehearsal_environment: Mapping[str, str] = field(default_factory=dict)
    prints_result: bool = False  # in a rehearsal: its JSON is what it prints

    def words(self, rehearse: bool, out: Path, commit: str) -> list[str]:
        """Return the command line."""
        words = self.rehearsal if rehearse else self.command
        return [word.format(out=out, commit=commit) for word in words]


TRAIN = (*PYTHON, "aslfast", "train", "--recipe", "tiny", "--out", "{out}/tiny-run")
SAMPLER = (*PYTHON, "bench.rollout.bench_sampler", "--allow-dirty", "--out", "{out}/sampler.json")
LEARNER = (*PYTHON, "bench.learner.bench_learner", "--shape", "qwen2.5-7b", "--allow-dirty")
KERNELS = (*PYTHON, "bench.kernels.bench_kernels", "--commit", "{commit}")
PARTS = (
    Part(
        "tests", 150, (*PYTHON, *TESTS, *ON_GPU),
        (*PYTHON, *TESTS, f"{TRITON}/test_logprob_triton_cost.py", "-k", "matrix_products"),
        {"KERNELS_IMPL": "triton"}, {"KERNELS_IMPL": "triton", "TRITON_INTERPRET": "1"},
    ),
    Part(
        "kernels", 150, (*KERNELS, "--repeats", "7", "--out", "{out}/kernels.json"), (*KERNELS, "--small"),
        prints_result=True,
    ),
    Part(
        "learner", 90, (*LEARNER, "--trajectories", "16", "--repeats", "2", "--out", "{out}/learner.json"),
        (*LEARNER, "--small", "--repeats", "1"), prints_result=True,
    ),
    Part(
        "sampler", 45, (*SAMPLER, "--device", "cuda", "--dtype", "bfloat16", "--repeats", "3"),
        (*SAMPLER, "--sequences", "4", "--prompt", "16", "--new", "4", "--vocab", "64", "--repeats", "1"),
    ),
    Part(
        "training", 60, (*TRAIN, *ONE_ROUND),
        (*TRAIN, *(word for setting in SMALL_ROUND.split() for word in ("--set", setting))),
    ),
)  # fmt: skip
