"""A run that begins with the phase "sft" is killed in it and resumed, and ends with the same bits."""

import json
import signal
import sqlite3

import pytest

from aslfast.config import to_toml
from aslfast.data.qa_dataset import write_questions
from aslfast.lab.world import World
from aslfast.trainer.lab_datasets import lab_questions
from tests.support.killed_runs import bits_of, go, lab_config, started, untimed
from tests.support.rank_processes import command, exit_codes, ranks_of, same_run

PATIENCE_S = 300
SFT = [
    'phases=["sft", "policy"]', "sft.epochs=2", "sft.batch_size=4", "sft.learning_rate=0.003", "format_weight=0",
    "policy.question_source=labelled", "policy.reward=exact_match", "policy.verdicts_per_answer=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The run learns from demonstrations that it makes of 24 questions and the index."""
    folder = tmp_path_factory.mktemp("world")
    write_questions(folder / "labelled.parquet", lab_questions(World.make(0, "train"), 0, 24))
    return lab_config(folder, [*SFT, f"data.labelled={folder}/labelled.parquet"])


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(config, folder)
    return folder


def finish(config, folder):
    process = started(go, config, folder)
    process.join(PATIENCE_S)
    assert process.exitcode == 0


def commits_of(run):
    with sqlite3.connect(run / "ledger.sqlite") as store:
        return [json.loads(body) for (body,) in store.execute("SELECT body FROM commits ORDER BY number")]


def test_every_step_is_a_commit_and_the_loss_falls(whole):
    lines, commits = untimed(whole / "sft.jsonl"), commits_of(whole)
    n = len(lines)
    assert n >= 4 and [line["step"] for line in lines] == list(range(1, n + 1))
    tuned = commits[2 : 2 + n]  # after the start and round 0
    assert all("sft.jsonl" in commit["lines"] and len(commit["made"]) == 1 for commit in tuned)
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]


def test_the_policy_goes_on_from_the_adapter_that_the_phase_leaves(whole):
    n = len(untimed(whole / "sft.jsonl"))
    versions = sorted(int(path.name[1:]) for path in (whole / "adapters" / "policy").iterdir())
    learned = sum(line["grad_norm"] > 0 for line in untimed(whole / "metrics.jsonl"))
    assert versions == sorted({n, n + learned})


def test_kills_change_no_bit(config, whole, tmp_path):
    killed, ends, done = tmp_path / "killed", [], []
    for operations in (55, 40, 40, 60):
        process = started(go, config, killed, operations)
        process.join(PATIENCE_S)
        ends.append(process.exitcode)
        done.append(len(untimed(killed / "sft.jsonl")))
    n = len(untimed(whole / "sft.jsonl"))
    assert ends[0] == -signal.SIGKILL and any(0 < steps < n for steps in done), (ends, done)
    finish(config, killed)
    assert bits_of(killed) == bits_of(whole) and untimed(killed / "sft.jsonl") == untimed(whole / "sft.jsonl")


def test_two_ranks_take_the_same_steps(config, whole, tmp_path):
    (tmp_path / "recipe.toml").write_text(to_toml(config))
    arguments = "train", "--recipe", tmp_path / "recipe.toml", "--out", tmp_path / "run"
    assert exit_codes(ranks_of(2, command, tmp_path, *arguments), PATIENCE_S) == [0, 0]
    same_run(tmp_path / "run", whole)
    assert untimed(tmp_path / "run" / "sft.jsonl") == untimed(whole / "sft.jsonl")
