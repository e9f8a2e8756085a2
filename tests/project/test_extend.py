"""docs/extend.md and examples/ work as they are written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
SMALL = (
    "rounds=1 threads=1 data.eval_count=8 policy.steps=1 policy.prompts_per_step=2 policy.group_size=2 "
    "data.labelled_count=20 monitor.judge_probe=0"
)


def run(command, folder, *more):
    words = shlex.split(command)
    assert words[:2] == ["aslfast", "train"], command
    out = ["--out", str(folder / "run"), "--quiet", *more]
    words = words[1 : words.index("--out")] if "--out" in words else words[1:]
    line = [sys.executable, "-m", "aslfast", *words, *out]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300)


def small():
    return [word for setting in SMALL.split() for word in ("--set", setting)]


def test_the_pages_reward_is_accepted(tmp_path):
    code, command = re.search(r"```python\n(.*?)```.*?```\n(aslfast .*?)\n```", PAGE, re.DOTALL).groups()
    (tmp_path / "my_rewards.py").write_text(code)
    done = run(command, tmp_path, "--dry-run")
    assert done.returncode == 0 and "my_rewards:brevity" in done.stdout, done.stderr


def test_a_typing_error_in_it_is_one_line(tmp_path):
    (tmp_path / "my_rewards.py").write_text("def brevity(evidence):\n    return evidence.anwser\n")
    done = run("aslfast train --recipe search-r1-tiny --set policy.reward=my_rewards:brevity", tmp_path)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "my_rewards:brevity raised AttributeError" in done.stderr and "my_rewards.py:2" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.parent.name)
def test_an_example_runs(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 5
    for file in page.parent.glob("*.py"):
        assert len(file.read_text().splitlines()) < 80
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (command,) = re.findall(r"^    (aslfast .*)$", text, re.MULTILINE)
    done = run(command, tmp_path, *small())
    assert done.returncode == 0, done.stderr
