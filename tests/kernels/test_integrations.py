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
from tests.support.kernels.host_contracts import VISION, stand_in_modules
from tests.support.tiny_models import tiny_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reuse" / "kernels-integrations.md"
HEADS = {  # the module of each project that its snippet patches
    "trl": "trl.trainer.utils",
    "verl": "verl.utils.kernel.linear_cross_entropy",
    "slime": "slime.utils.ppo_utils",
    "prime-rl": "prime_rl.trainer.models.layers.lm_head",
    "openrlhf": "openrlhf.models.utils",
}
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
    assert names == ["plain: before", "plain: after", *HEADS]


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


@pytest.mark.parametrize("name", HEADS)
def test_one_line_and_back(name, monkeypatch):
    """The page's lines on stand-ins for the packages: the first patches, `undo` puts all back."""
    made = stand_in_modules() | {f"verl.models.transformers.{kind}": None for kind in VISION}
    for module in made:
        monkeypatch.setitem(sys.modules, module, made[module])
    head = vars(made[HEADS[name]])
    before = dict(head)
    patch = snippet(name)["patch"]
    assert head != before
    patch.undo()
    assert head == before
