"""docs/recipes/environments.md and its example work as they are written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "recipes" / "environments.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "own_environment"
SMALL = (
    "rounds=1 threads=1 data.eval_count=3 policy.steps=2 policy.prompts_per_step=2 policy.group_size=4 "
    "sampler.max_turns=3"
)


def run(command, folder, *more):
    words = shlex.split(command)
    assert words[:2] == ["aslfast", "train"], command
    line = [sys.executable, "-m", "aslfast", *words[1 : words.index("--out")], "--out", str(folder / "run"), *more]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300)


def code_of(page):
    return re.search(r"```python\n(.*?)```.*?```\n(aslfast .*?)\n```", page, re.DOTALL).groups()


def test_the_pages_environment_is_accepted(tmp_path):
    code, command = code_of(PAGE)
    (tmp_path / "my_env.py").write_text(code)
    done = run(command, tmp_path, "--dry-run")
    assert done.returncode == 0 and "from my_env:GuessTheNumber" in done.stdout, done.stderr


def test_the_pages_game_is_one():
    names: dict = {}
    exec(code_of(PAGE)[0], names)
    game = names["Higher"](42)
    said = [game.step(action) for action in ("", "seven", "41", "43", "\u00b2", "42")]
    assert said == [("say a number", 0.0), ("say a number", 0.0), ("higher", 0.0), ("lower", 0.0),
                    ("say a number", 0.0), (None, 1.0)]  # fmt: skip
    lost = names["Higher"](42)
    assert [lost.step("1") for _ in range(6)][-1] == (None, 0.0)


def test_a_typing_error_in_it_is_one_line(tmp_path):
    code, command = code_of(PAGE)
    (tmp_path / "my_env.py").write_text(code.replace("self.guesses += 1", "self.gueses += 1"))
    done = run(command, tmp_path)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "my_env:GuessTheNumber.step raised AttributeError" in done.stderr and "my_env.py:12" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_example_runs(tmp_path):
    readme, game = (EXAMPLE / "README.md").read_text(), EXAMPLE / "my_game.py"
    assert len(readme.splitlines()) <= 5 and len(game.read_text().splitlines()) < 80
    (tmp_path / game.name).write_bytes(game.read_bytes())
    (command,) = re.findall(r"^    (aslfast .*)$", readme, re.MULTILINE)
    done = run(command, tmp_path, "--quiet", *(word for key in SMALL.split() for word in ("--set", key)))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and lines[0]["reward"] != lines[1]["reward"]
