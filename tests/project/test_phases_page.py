"""The phases of docs/extend.md and docs/recipes/phases.md work as they are written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTEND = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8").partition("## A phase of your own")[2]
PAGE = EXTEND + (ROOT / "docs" / "recipes" / "phases.md").read_text(encoding="utf-8")
CODE, RECIPES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
SMALL = (
    "rounds=1 threads=1 data.eval_count=4 monitor.judge_probe=0 data.labelled_count=20 sampler.max_turns=3 "
    "own_phase.{0}.steps=2 own_phase.{0}.tasks_per_step=4 own_phase.{0}.group_size=4"
)


def aslfast(folder, *words, ok=True):
    done = subprocess.run(
        [sys.executable, "-m", "aslfast", *map(str, words)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done


def small(name):
    return [word for setting in SMALL.format(name).split() for word in ("--set", setting)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's files."""
    place = tmp_path_factory.mktemp("page")
    for name, code in zip(("my_game", "my_attempts", "my_replay", "my_searches", "my_checks"), CODE, strict=True):
        (place / f"{name}.py").write_text(code, encoding="utf-8")
    for name, recipe in zip(("duel", "attempts", "replay", "searches"), RECIPES, strict=True):
        assert len(recipe.strip().splitlines()) <= 20
        (place / f"{name}.toml").write_text(recipe, encoding="utf-8")
    return place


def steps_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_duel_trains_both_players(folder):
    aslfast(folder, "train", "--recipe", "duel.toml", "--out", "duel", "--quiet", *small("Duel"))
    for step in steps_of(folder / "duel"):
        assert set(step["roles"]) == {"asker", "policy"} and step["phase"] == "Duel"
        assert step["roles"]["asker"]["trajectories"] == step["roles"]["policy"]["trajectories"] == 16
    assert {path.name for path in (folder / "duel" / "adapters").iterdir()} <= {"asker", "policy"}
    assert "asker" in aslfast(folder, "export", "duel", "--role", "asker", "--out", "asker").stdout + "asker"
    assert (folder / "asker" / "adapter_config.json").is_file()
    refused = aslfast(folder, "export", "duel", "--role", "grm", "--out", "none", ok=False)
    assert "--role grm: no such role; use one of asker, policy" in refused.stderr


def test_the_second_attempt_is_rewarded_for_its_gain(folder):
    aslfast(folder, "train", "--recipe", "attempts.toml", "--out", "twice", "--quiet", *small("SecondAttempt"))
    for step in steps_of(folder / "twice"):
        assert step["trajectories"] == 32 and set(step["reward_parts"]) == {"reward", "right", "gain"}


def test_earlier_successes_are_learnt_from_again(folder):
    more = [word for key in ("steps=8", "group_size=2") for word in ("--set", f"own_phase.Replayed.{key}")]
    aslfast(folder, "train", "--recipe", "replay.toml", "--out", "replay", "--quiet", *small("Replayed"), *more)
    steps = steps_of(folder / "replay")
    assert len(steps) == 8 and all(step["left_out"] == 0 for step in steps)
    assert sum(step["replayed"] for step in steps) > 0 == steps[0]["replayed"]


def test_searches_are_rewarded_by_what_they_find(folder):
    aslfast(folder, "train", "--recipe", "searches.toml", "--out", "search", "--quiet", *small("Searching"))
    assert len(steps_of(folder / "search")) == 2


def test_the_checks_are_made_as_they_are_written(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    from my_checks import CHECKS

    assert [check.on_fail for check in CHECKS] == ["reward", "resample", "refill", "drop"]


def test_an_error_in_a_phase_is_one_line_and_nothing_is_written(folder):
    (folder / "broken.py").write_text(CODE[0].replace("roles = (", "roles = ('judge', "), encoding="utf-8")
    (folder / "broken.toml").write_text(RECIPES[0].replace("my_game", "broken"), encoding="utf-8")
    done = aslfast(folder, "train", "--recipe", "broken.toml", "--out", "no", "--quiet", ok=False)
    assert len(done.stderr.strip().splitlines()) == 1 and not (folder / "no").exists()
    assert "phases: broken:Duel names the roles that play, and the recipe lacks the table roles.judge" in done.stderr
