"""bench/on_gpu.sh, rehearsed part by part on a CPU; a part that fails or hangs is said and stops nothing."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from bench.gpu_run import packages, run
from bench.gpu_run.parts import PARTS, Part

ROOT = Path(__file__).resolve().parents[3]
STAMP = {"commit", "date", "device", "python", "cores"}


def on_gpu(*arguments, **environment):
    command = ["bash", "bench/on_gpu.sh", *map(str, arguments)]
    chosen = {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=ROOT, env=os.environ | chosen, capture_output=True, text=True, timeout=900)


def part_of(name):
    return next(part for part in PARTS if part.name == name)


FILES = {
    "tests": None,
    "kernels": ("kernels.json", "rows"),
    "learner": ("learner.json", "rows"),
    "sampler": ("sampler.json", "tokens_per_s"),
    "training": None,
}


@pytest.mark.parametrize("name", [part.name for part in PARTS])
def test_every_part_is_rehearsed(name, tmp_path):
    done = on_gpu(tmp_path / "out", "--rehearse", "--parts", name)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads((tmp_path / "out" / "parts.json").read_text())
    assert result["rehearsal"] is True and result.keys() >= STAMP and result["bench"] == "on_gpu"
    assert [(part["part"], part["state"]) for part in result["parts"]] == [(name, "ok")]
    assert f"| {name} | ok |" in done.stdout and done.stdout.endswith("a rehearsal: its times mean nothing\n")
    if FILES[name] is not None:
        file, figures = FILES[name]
        own = json.loads((tmp_path / "out" / file).read_text())
        assert own["commit"].startswith(result["commit"]) and own[figures]
        assert "skipped liger-kernel: No module named 'liger_kernel'" in done.stdout or name != "kernels"
    if name == "training":
        assert json.loads((tmp_path / "out" / "tiny-run" / "rounds.jsonl").read_text().splitlines()[-1])["round"] == 1
    if name == "tests":
        assert "4 passed" in result["parts"][0]["said"][-1]


def test_without_a_gpu_nothing_is_measured(tmp_path):
    done = on_gpu(tmp_path / "out")
    assert done.returncode == 0 and "on_gpu: not measured: no CUDA device here" in done.stdout
    assert not (tmp_path / "out" / "parts.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
@pytest.mark.parametrize("name", ["kernels", "learner"])
def test_the_real_command_is_understood(name, tmp_path):
    words = part_of(name).words(False, tmp_path, "abc")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "not measured: no CUDA device" in done.stdout, done.stderr


def test_nine_minutes_hold_all_parts():
    limits = [packages.BUILD_LIMIT_S * 2, packages.DEVICE_LIMIT_S, *(part.limit_s for part in PARTS)]
    assert run.TOTAL_S == 9 * 60 and sum(limits[2:]) + 25 <= run.TOTAL_S
    assert [part.name for part in PARTS] == list(FILES)


def test_a_part_that_fails_or_hangs_is_said_and_the_rest_runs(tmp_path, monkeypatch, capsys):
    scripts = {
        "fails": "print('why'); raise SystemExit(3)",
        "hangs": "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])",
        "works": "import json, pathlib; print(len(json.loads(pathlib.Path('{out}/parts.json').read_text())['parts']))",
    }
    parts = [Part(name, 2, (), (sys.executable, "-c", script)) for name, script in scripts.items()]
    monkeypatch.setattr(run, "PARTS", tuple(parts))
    monkeypatch.setattr(sys, "argv", ["on_gpu", str(tmp_path), "--rehearse"])
    assert run.main() == 1
    states = json.loads((tmp_path / "parts.json").read_text())["parts"]
    assert [part["state"] for part in states] == ["failed, exit code 3", "over its 2 s", "ok"]
    assert states[0]["said"] == ["why"] and states[1]["seconds"] < 20
    assert states[2]["said"] == ["2"], "what the first two left was not written before the third began"
    assert "| hangs | over its 2 s |" in capsys.readouterr().out


def test_wheels_fill_what_is_missing_and_replace_nothing(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, module in {
        "peer-1-py3-none-any": "a_peer.py",
        "j-1-py3-none-any": "json.py",
        "torch-9": "from_9.py",
    }.items():
        with zipfile.ZipFile(wheels / f"{name}.whl", "w") as file:
            file.writestr(module, "X = 7\n")
    (wheels / "zz.whl").write_text("not a wheel")
    environment, missing = packages.prepare(tmp_path / "out", wheels)
    assert missing == ["zz.whl: File is not a zip file"]
    code = "import a_peer, json, importlib.util, aslfast_kernels, aslfast._bm25\n"
    code += "print(a_peer.X, json.dumps([]), importlib.util.find_spec('from_9'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True)
    assert done.stdout.split() == ["7", "[]", "None"], done.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    assert packages.unpack(empty, tmp_path / "site") == [f"no wheel in {empty}"]
