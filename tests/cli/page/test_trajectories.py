"""`aslfast trajectories`: what passes, how it reads, and what a wrong condition is told."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from aslfast.cli.main import app
from tests.support.cli.page_runs import HOSTILE, write_page_run


@pytest.fixture
def run(tmp_path):
    return write_page_run(tmp_path / "run")


def listed(run, *args):
    return CliRunner().invoke(app, ["trajectories", str(run), *map(str, args)])


def rows(run, *args):
    return [json.loads(line) for line in listed(run, "--json", *args).stdout.splitlines()]


def test_it_reads_as_a_conversation(run):
    said = listed(run, "--role", "policy", "--limit", 1).stdout
    assert "policy, round 1, step 1: finished, reward 1.05" in said and said.index("tool:") < said.index("<answer> sat")
    assert "output: satire   reference: satire   judge 1.00 format 0.05" in said


@pytest.mark.parametrize(
    ("args", "count"),
    [
        (("--limit", 100), 18),
        ((), 5),
        (("--role", "grm", "--limit", 100), 2),
        (("--round", 2), 0),
        (("--step", 2, "--limit", 100, "--role", "policy"), 8),
        (("--where", "reward<0.5 and match=0", "--limit", 100), 13),  # 12 attempts and a verdict
        (("--where", "stop=no_output", "--limit", 100), 4),
        (("--where", "output != memoir and role = policy", "--limit", 100), 8),
        (("--where", "conversation ~ ÜMLÄUT"), 1),
        (("--where", "searches>=1", "--limit", 100), 16),
        (("--where", 'output = "drama and so" AND reward<1'), 0),
        (("--role", "judge"), 2),
    ],
)
def test_what_passes(run, args, count):
    assert len(rows(run, *args)) == count


def test_a_line_of_json_has_the_turns_and_the_reward(run):
    (row,) = rows(run, "--where", "conversation~hacked")
    assert [turn["kind"] for turn in row["turns"]] == ["prompt", "sampled", "tool", "sampled"]
    assert row["turns"][2]["text"] == HOSTILE and row["reward_parts"] == {"judge": 0.0, "format": 0.05}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("rewards<3", "columns: reward, round"),
        ("reward<high", "reward is a number, 'high' is none"),
        ("output<3", "compare it by = != or ~"),
        ("reward~0.5", "reward is a number; compare it by"),
        ("reward<1 or reward>2", "'1 or reward>2' is none"),
    ],
)
def test_a_condition_that_is_none(run, where, said):
    result = listed(run, "--where", where)
    assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1


def test_nothing_to_show_is_said(run, tmp_path):
    result = listed(run, "--role", "nobody")
    assert result.exit_code == 0 and "no trajectory passes; phases with trajectories: grm, policy" in result.stderr
    assert "no trajectories in it" in listed(tmp_path).stderr


def test_control_characters_do_not_reach_the_terminal(run, monkeypatch):
    from aslfast.cli.page import listing

    monkeypatch.setattr(listing, "turns_of", lambda row: [("tool", "a\x1b[31mred")])
    assert "\x1b" not in listed(run, "--limit", 1).stdout
