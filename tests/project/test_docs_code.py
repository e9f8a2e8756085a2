"""The documentation's Python runs, and every key and reward is documented."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aslfast.cli.main import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
INDEX = (ROOT / "docs" / "reuse" / "index.md").read_text(encoding="utf-8")
REWARDS = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
LEARNER = (ROOT / "docs" / "learner.md").read_text(encoding="utf-8")


def blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", blocks("python") + blocks("python", INDEX))
def test_python_runs(code, tmp_path):
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "capital of Norway" in done.stdout


@pytest.mark.parametrize("code", blocks("python", REWARDS) + blocks("python", LEARNER))
def test_it_does_as_documented(code, tmp_path):
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", "".join(blocks("sh", LEARNER)).splitlines())
def test_the_learners_commands_run(command):
    words = shlex.split(command)
    assert words[0] == "aslfast"
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output


def test_every_key_of_the_learner_is_documented():
    from aslfast.learner.learner import LearnerConfig

    keys = {field.name for field in dataclasses.fields(LearnerConfig)} - {"learning_rate", "weight_decay"}
    named = set(re.findall(r"`(?:learner\.)?(\w+)(?: = [^`]*)?`", LEARNER))
    assert keys - named == set()


def test_every_reward_is_documented():
    from aslfast import rewards
    from aslfast.prompts.builder import JUDGE_PROMPTS

    named = [*rewards.GENERATOR_REWARDS, *rewards.POLICY_REWARDS, *rewards.GRM_REWARDS, *rewards.LABELS]
    named += rewards.REFERENCES
    assert [name for name in named if f"`{name}`" not in REWARDS] == [] and set(JUDGE_PROMPTS) == set(
        rewards.GRM_REWARDS
    )
