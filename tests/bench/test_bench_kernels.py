"""The kernels' benchmark: without a GPU it measures nothing and says so; its rehearsal runs every row."""

import json
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "bench.kernels.bench_kernels", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_without_a_gpu_no_number(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "kernels.json"
    said = run("--out", str(out))
    assert said.startswith("bench_kernels: not measured: no CUDA device")
    assert not out.exists()


def test_rehearsal_runs_every_row_and_writes_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "kernels.json"
    result = json.loads(run("--small", "--out", str(out)))
    assert result["rehearsal"] is True and not out.exists()
    ours = {row["pass"]: row for row in result["rows"] if row["side"] == "aslfast"}
    assert len(ours) == 3 + 2 + 3 and all(row["ms"] > 0 for row in ours.values())
    errors = {row["side"]: row["error"] for row in result["rows"] if row["pass"] == "forward"}
    # float32 logits of bfloat16 inputs against torch's bfloat16 logits: rounding them to 8 bits costs 1e-3 and more
    assert errors["aslfast"] < 4 * torch.finfo(torch.float32).eps * 20 < errors["torch eager"]
