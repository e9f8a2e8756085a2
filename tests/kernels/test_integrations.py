"""The snippets of docs/reuse/kernels-integrations.md, run as written there, and the package without aslfast."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import aslfast
import aslfast_kernels
from aslfast_kernels import linear_logprob
from tests.support.tiny_models import tiny_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reuse" / "kernels-integrations.md"
EPS32 = torch.finfo(torch.float32).eps

WITHOUT_ASLFAST = """
import sys
sys.modules["aslfast"] = None  # importing it raises ImportError
import torch
from aslfast_kernels import group_advantage, linear_logprob, logprob, policy_loss
print(group_advantage(torch.tensor([1.0, 0.0]), torch.tensor([7, 7]), eps=0.0).tolist())
foreign = {name.partition(".")[0] for name in sys.modules} & {"transformers", "peft", "pyarrow", "rich", "typer"}
assert not foreign, foreign
"""


def snippet(name: str, **given: Any) -> dict[str, Any]:
    """Run the page's block `# name` over the names it takes for granted, `given`; return its namespace."""
    (code,) = re.findall(
        rf"^```python\n(# {name}\n.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    exec(compile(code, str(PAGE), "exec"), given)
    return given


def test_import_without_aslfast():
    done = subprocess.run([sys.executable, "-c", WITHOUT_ASLFAST], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1.0, -1.0]"


def test_installs_alone(tmp_path):
    """Install kernels/ alone: its version is aslfast's, and the README's example runs on it."""
    source, site = tmp_path / "kernels", tmp_path / "site"
    shutil.copytree(ROOT / "kernels", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", site, source], check=True, capture_output=True)
    assert (site / f"aslfast_kernels-{aslfast.__version__}.dist-info").is_dir()
    example = re.findall(r"^```python\n(.*?)^```", (source / "README.md").read_text(), re.DOTALL | re.MULTILINE)[0]
    code = f"{example}\nimport aslfast_kernels\nassert aslfast_kernels.__file__.startswith({str(site)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_every_snippet_is_known():
    names = re.findall(r"^```python\n# (.*)\n", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert names == ["plain: before", "plain: after", "trl: before", "trl: after", "verl: after"]


def test_plain_loop_before_and_after(tokenizer):
    """Same loss and gradients as the float64 run of the code before, within twice that code's own float32 error."""
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(len(tokenizer), (3, 17), generator=g)
    mask = torch.rand(3, 17, generator=g) < 0.6
    advantage = torch.tensor([1.0, -0.5, 0.3])
    old = -5.5 + 0.4 * torch.randn(3, 16, generator=g)
    results = {}
    for name, dtype in (("before", torch.float64), ("before", torch.float32), ("after", torch.float32)):
        model = tiny_model(tokenizer).to(dtype)
        floats = [old.to(dtype), advantage.to(dtype)]
        loss = snippet(f"plain: {name}")["step_loss"](model, ids, mask, *floats)
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        results[name, dtype] = torch.cat([loss.detach()[None], gradients]).double()
    exact, own = results["before", torch.float64], results["before", torch.float32]
    error = (results["after", torch.float32] - exact).abs()
    allowed = 2 * float((own - exact).abs().max()) + 8 * EPS32 * float(exact.abs().max())
    assert float(error.max()) <= allowed
    assert float(exact.abs().max()) > 0.01


@pytest.fixture
def grpo(tokenizer, tmp_path):
    """Return what TRL's snippets take for granted: a tiny model made here, prompts, a reward; one step on the CPU."""
    pytest.importorskip("trl")
    import datasets
    import peft
    from trl import GRPOConfig

    tokenizer.padding_side = "left"

    def reward(completion_ids, **_):
        return [sum(ids) % 7 / 7 for ids in completion_ids]

    def given(with_lora):
        torch.manual_seed(0)
        beta = 0.05 if with_lora else 0.0  # without an adapter TRL would look for the reference model by its name
        args = GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
            max_steps=1, learning_rate=1e-2, temperature=0.7, beta=beta, report_to="none", save_strategy="no",
            logging_steps=1, use_cpu=True, bf16=False, seed=3, disable_tqdm=True, gradient_checkpointing=False,
        )  # fmt: skip
        lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        dataset = datasets.Dataset.from_dict({"prompt": ["What is the capital of Norway?", "And of Peru?"]})
        names = ("model", "reward", "args", "dataset", "tokenizer", "peft_config")
        values = (tiny_model(tokenizer), reward, args, dataset, tokenizer, lora if with_lora else None)
        return dict(zip(names, values, strict=True))

    return given


@pytest.mark.parametrize("with_lora", [True, False])
def test_trl_trains_a_step_with_our_logprobs(grpo, with_lora, monkeypatch):
    calls = []
    monkeypatch.setattr(aslfast_kernels, "linear_logprob", lambda *a, **k: calls.append(k) or linear_logprob(*a, **k))
    trainers = {name: snippet(f"trl: {name}", **grpo(with_lora))["trainer"] for name in ("before", "after")}
    first = {name: trainer.state.log_history[0] for name, trainer in trainers.items()}
    assert len(calls) == 1 + with_lora  # the step, and the reference
    assert first["after"]["completions/mean_length"] == first["before"]["completions/mean_length"]
    assert first["before"]["reward_std"] > 0 and first["before"]["grad_norm"] > 1e-3
    # float32 sums over some 30 tokens and 2 layers, in another order
    assert first["after"]["grad_norm"] == pytest.approx(first["before"]["grad_norm"], rel=1e-4)
    assert first["after"]["loss"] == pytest.approx(first["before"]["loss"], abs=1e-5)
    if not with_lora:
        pairs = zip(trainers["after"].model.parameters(), grpo(False)["model"].parameters(), strict=True)
        assert max(float((a - b).detach().abs().max()) for a, b in pairs) > 1e-3


def test_trl_logprobs_and_entropies_agree(grpo):
    """Against float64 on the same weights: at most twice TRL's own float32 error plus 8 roundings of a logit."""
    after = snippet("trl: after", **grpo(with_lora=False))
    ours, base = after["trainer"], after["GRPOTrainer"]
    ours._entropy_bonus_enabled = True  # or the snippet would leave the entropy out
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 200, (3, 14), generator=g)
    mask = torch.ones_like(ids)
    mask[0, :3] = mask[1, -2:] = 0
    arguments = (ours.model, ids, mask, 6)
    with torch.no_grad():
        got = ours._get_per_token_logps_and_entropies(*arguments, batch_size=2, compute_entropy=True)
        trl = base._get_per_token_logps_and_entropies(ours, *arguments, batch_size=2, compute_entropy=True)
        logits = ours.model.double()(input_ids=ids, attention_mask=mask).logits[:, -7:-1] / 0.7
    log_p = logits.log_softmax(-1)
    keep = mask[:, -6:].bool()
    exact = (log_p.gather(2, ids[:, -6:, None]).squeeze(2), -(log_p.exp() * log_p).sum(-1))
    for mine, theirs, want in zip(got, trl, exact, strict=False):
        own = float((theirs - want)[keep].abs().max())
        assert float((mine - want)[keep].abs().max()) <= 2 * own + 8 * EPS32 * float(logits.abs().max())
        assert mine[~keep].tolist() == [0.0, 0.0] == theirs[~keep].tolist()
