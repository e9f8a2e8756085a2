"""The learner's benchmark: its sides take the same step, its FLOPs are those that torch counts, no GPU is no number."""

import json
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.learner.batch import make_batch
from aslfast.learner.learner import Learner
from aslfast.speed import step_flops
from bench.learner.padded_step import PaddedStep
from bench.learner.trajectory_lengths import load, save, trajectories

ROOT = Path(__file__).resolve().parents[2]

TINY = ROOT / "bench" / "shapes" / "tiny_policy.json"


def learner_of(model, **options):
    return Learner(model, LearnerConfig(**options), LossConfig(), 0.7, ("policy",))


def some():
    made = trajectories(load(TINY)[1][0][:40], 256, 0)
    return made, [random.Random(i).choice((-1.0, 0.5)) for i in range(len(made))]


def gradient(model, run):
    model.set_adapter("policy")
    run()
    flat = torch.cat([p.grad.double().flatten() for n, p in model.named_parameters() if ".policy." in n])
    model.zero_grad(set_to_none=True)
    return flat


@pytest.mark.parametrize("by_length", [True, False])
def test_the_padded_step_takes_our_gradient(model, by_length):
    made, advantages = some()
    loss_tokens = float(sum(t.n_sampled for t in made))
    padded = PaddedStep(model, 0.7, 8, by_length, (0.2, 0.28))
    theirs = gradient(model, lambda: padded.accumulate(made, advantages, loss_tokens))
    ours = gradient(model, lambda: learner_of(model).accumulate(made, advantages, loss_tokens, with_kl=False))
    assert (theirs - ours).abs().max() <= 1e-4 * ours.abs().max()


def test_shapes_come_back_as_they_were(tmp_path):
    """Random tokens in recorded shapes have the lengths, the spans and the shared prefixes of the record."""
    _, steps = load(TINY)
    made = trajectories(steps[0], 1000, 3)
    ordered = sorted(made, key=lambda t: t.token_ids)
    assert sorted(len(t.token_ids) for t in made) == sorted(sum(spans) for _, *spans in steps[0])
    assert sorted(t.n_sampled for t in made) == sorted(sum(spans[1::2]) for _, *spans in steps[0])
    by_loop = sum(
        next((i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), min(len(x), len(y)))
        for x, y in pairwise(t.token_ids for t in ordered)
    )
    assert by_loop == sum(shared for shared, *_ in steps[0])
    save(tmp_path / "again.json", "here", steps)
    assert load(tmp_path / "again.json") == ("here", steps)


def test_flops_are_those_that_torch_counts(model):
    """The layers' products, exactly. torch's counter sees neither the CPU's attention nor into the fused head; the
    formula also counts the gradient to the first layer's input, which is never computed."""
    made, advantages = some()
    learner, part = learner_of(model, share_prefix="never"), make_batch(made, advantages, share=False)
    model.set_adapter("policy")
    with FlopCounterMode(display=False) as counter:
        learner.accumulate(made, advantages, 1.0, with_kl=False)
    model.zero_grad(set_to_none=True)
    counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    tokens, width, qkv, rank = len(part.input_T), 32, 32 + 16 + 16, 4
    first_input = 2 * tokens * width * (qkv + 3 * rank)
    assert step_flops(model, tokens, 0, 0, "policy") - first_input == counted["aten.mm"] + counted["aten.addmm"]
    head = step_flops(model, tokens, 5, 0, "policy") - step_flops(model, tokens, 0, 0, "policy")
    assert head == 2 * (2 * 5 * width * model.config.vocab_size)


def test_without_a_gpu_no_number(tmp_path):
    out = tmp_path / "learner.json"
    command = [sys.executable, "-m", "bench.learner.bench_learner", "--shape", "qwen2.5-7b", "--out", str(out)]
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "qwen2.5-7b not measured: no CUDA device" in done.stdout
    assert not out.exists()


def test_rehearsal_runs_every_side():
    command = [
        sys.executable,
        "-m",
        "bench.learner.bench_learner",
        "--small",
        "--repeats",
        "1",
        "--shape",
        "qwen2.5-7b",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["rehearsal"] and {row["side"] for row in result["rows"]} == set(result["largest_gradient_difference"])
    for row in result["rows"]:
        assert row["loss_tokens_per_s"] > 0 and row["peak_mib"] > 0 and all(s >= 0 for s in row["parts_s"].values())
    by_side = {row["side"]: row for row in result["rows"]}
    assert by_side["packed, shared"]["forward_tokens"] < by_side["packed"]["forward_tokens"]
