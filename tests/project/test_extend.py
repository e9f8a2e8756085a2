"""docs/extend.md and examples/ work as they are written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
NO_PARTS = ("containers", "from_nothing", "notebooks")  # tried by tests/project/shipping
EXAMPLES = [page for page in sorted((ROOT / "examples").glob("*/README.md")) if page.parent.name not in NO_PARTS]
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
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # `python` is this one
    return subprocess.run(line, cwd=folder, env=os.environ | path, capture_output=True, text=True, timeout=300)


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
    if "mcp" in page.parent.name and not find_spec("mcp"):
        pytest.skip("the MCP client is an extra")
    if "verifiers" in page.parent.name and not find_spec("verifiers"):
        pytest.skip("the package verifiers is no dependency")
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 5
    for file in page.parent.glob("*.py"):
        assert len(file.read_text().splitlines()) < 80
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (command,) = re.findall(r"^    (aslfast .*)$", text, re.MULTILINE)
    done = run(command, tmp_path, *small())
    assert done.returncode == 0, done.stderr


def test_the_pages_tool_is_accepted(tmp_path):
    tools = PAGE.partition("## Tools")[2]
    code, command = re.search(r"```python\n(.*?)```.*?```\n(aslfast .*?)\n```", tools, re.DOTALL).groups()
    (tmp_path / "my_tools.py").write_text(code)
    done = run(command, tmp_path, "--dry-run")
    assert done.returncode == 0 and "my_tools:seconds_between" in done.stdout, done.stderr
    called = "from my_tools import *; print(seconds_between('2026-01-31T12:00:00', '2026-01-31T12:01:00'))"
    said = subprocess.run([sys.executable, "-c", called], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert said.stdout == "60\n"


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ('["search", "my_tools:add"]', "tools: my_tools:add has no docstring; a tool is a function"),
        ('["search", "no_tools:add"]', "tools: no module 'no_tools'; run in the folder that holds it"),
        ('["search", "my_tools:told"]', "tools: a prompt that tells of them has"),
        ('["serach"]', '--set tools=["serach"]: an entry of tools is \'serach\'; use "search", module:function'),
    ],
)
def test_a_wrong_tool_is_one_line_and_nothing_is_written(tools, said, tmp_path):
    (tmp_path / "my_tools.py").write_text(
        'def add(a: int) -> int:\n    return a\ndef told(a: int) -> int:\n    """Return it."""\n    return a\n'
    )
    done = run("aslfast train --recipe search-r1-tiny", tmp_path, "--set", f"tools={tools}")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and said in done.stderr
    assert not (tmp_path / "run").exists()
