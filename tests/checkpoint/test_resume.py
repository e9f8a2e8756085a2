"""A run that is killed at any moment and resumed ends with the bits of one that was not.

The processes and their SIGKILL are real; so is the lab's base and a world of the lab. Only the sizes are small.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from aslfast.checkpoint.run_dir import RunDir
from aslfast.cli.main import app
from aslfast.config import load_recipe, to_toml
from aslfast.errors import UserError
from aslfast.files.checksum import damage
from aslfast.trainer import train
from aslfast.trainer.lab_datasets import lab_datasets
from tests.support.killed_runs import N_COMMITS, N_STEPS, bits_of, go, go_watched, lab_config, linked, started, untimed

KILLS = 20
PATIENCE_S = 300  # for one whole run on a machine that is busy with other things


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return lab_config(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A run without a kill: (its folder, what a kill at each of its file operations would have left, its seconds)."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "snapshots").mkdir()
    start = time.perf_counter()
    finish(started(go_watched, config, folder / "run", folder / "snapshots"))
    return folder / "run", sorted((folder / "snapshots").iterdir()), time.perf_counter() - start


def finish(process):
    process.join(PATIENCE_S)
    assert process.exitcode == 0


@pytest.fixture
def left_after(whole, tmp_path):
    """The run's folder as a kill right after the commit of that number leaves it."""

    def copy(commits, name="left"):
        left = next(path for path in whole[1] if len(commits_of(path)) == commits)
        return shutil.copytree(left, tmp_path / name)

    return copy


def commits_of(run):
    with sqlite3.connect(run / "ledger.sqlite") as store:
        if not store.execute("SELECT name FROM sqlite_master").fetchall():
            return []
        return [json.loads(body) for (body,) in store.execute("SELECT body FROM commits ORDER BY number")]


def test_the_run_learns(whole):
    """Otherwise the comparisons below would compare little."""
    lines = untimed(whole[0] / "metrics.jsonl")
    assert len(lines) == N_STEPS and sum(line["grad_norm"] > 0 for line in lines) >= N_STEPS - 1
    assert len({line["reward"] for line in lines}) > 1
    assert not (whole[0] / "steps").exists()


def test_twenty_kills(config, whole, tmp_path):
    """By turns after a random time and before a random operation on a file, until the run is done; then another run."""
    run, _, seconds = whole
    rng, expected, kills, runs = random.Random(1), bits_of(run), 0, 0
    while kills < KILLS or (tmp_path / f"run{runs}").exists():
        killed = tmp_path / f"run{runs}"
        by_operation = kills % 2 and kills < KILLS
        process = started(go, config, killed, rng.randrange(1, 90) if by_operation else 0)
        process.join(PATIENCE_S if by_operation or kills >= KILLS else rng.uniform(0.05, 0.4) * seconds)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode == 0:
            assert bits_of(killed) == expected
            runs += 1
        else:
            assert process.exitcode == -signal.SIGKILL
            kills += 1
    assert runs >= 1


SCHEDULED = [
    "rounds=2", 'generator.source=["topic", "depth"]', "generator.target_questions=[3, 2]", "policy.steps=6",
    "policy.plateau_window=4", "grm.folds=2", "grm.gold_label_fraction=0.5", "monitor.judge_probe=4",
]  # fmt: skip


def test_kills_in_a_run_with_a_schedule(tmp_path):
    """Two judges, variants of what was trained on, phases that end early: their state survives as well."""
    config = lab_config(tmp_path, [*SCHEDULED, f"data.labelled={tmp_path}/questions.parquet"])
    finish(started(go, config, tmp_path / "whole"))
    lines = untimed(tmp_path / "whole" / "metrics.jsonl")
    phases = [(line["round"], line["phase"]) for line in lines]
    assert phases.count((1, "generator")) == 1 and (2, "second_judge") in phases  # over before its second step
    assert 4 <= phases.count((1, "policy")) <= 6 and any(line["reward"] for line in lines)
    killed = tmp_path / "killed"
    for operations in (45, 60, 75, 90, 105):
        process = started(go, config, killed, operations)
        process.join(PATIENCE_S)
        assert process.exitcode in (-signal.SIGKILL, 0)
    finish(started(go, config, killed))
    assert bits_of(killed) == bits_of(tmp_path / "whole")


def test_a_kill_at_any_file_operation_leaves_one_commit_or_the_next(whole, tmp_path):
    """Whatever the moment, the folder is brought to exactly what a number of whole commits says."""
    run, snapshots, _ = whole
    bodies = commits_of(run)
    lines = {name: untimed(run / name) for name in ("metrics.jsonl", "rounds.jsonl")}
    counts = []
    for number, left in enumerate(snapshots):
        copy = tmp_path / str(number)
        shutil.copytree(left, copy, copy_function=linked)
        with RunDir.resume(copy) as resumed:
            named = {copy / name for name in (*resumed.files, *resumed._removable)}
            assert all(damage(copy / name, stored) is None for name, stored in resumed.files.items())
        own = commits_of(copy)
        counts.append(len(own))
        assert [body["what"] for body in own] == [body["what"] for body in bodies[: len(own)]]
        assert {p for f in ("steps", "trajectories", "adapters") for p in (copy / f).rglob("*") if p.is_file()} <= named
        for name, all_lines in lines.items():
            assert untimed(copy / name) == all_lines[: sum(name in body["lines"] for body in own)]
    assert counts == sorted(counts) and set(counts) == {0, *range(2, N_COMMITS + 1)}  # round 0 writes no other file
    assert all(counts.count(n) >= 5 for n, body in enumerate(bodies) if body["what"] in ("step", "phase"))


# --- files that are damaged --------------------------------------------------------------------------------------

GENERATED, SECOND_POLICY_STEP = 5, 9  # numbers of commits


@pytest.mark.parametrize("name", ["policy-v00002.safetensors", "round-001-policy-00002.parquet"])
def test_a_damaged_file_of_the_last_step_repeats_that_step(config, whole, left_after, name):
    run = left_after(SECOND_POLICY_STEP)
    file = run / "steps" / name
    file.write_bytes(file.read_bytes()[:-100])
    with RunDir.resume(run) as resumed:
        assert len(resumed.warnings) == 1 and name in resumed.warnings[0] and "done again" in resumed.warnings[0]
    assert len(commits_of(run)) == SECOND_POLICY_STEP - 1 and len(untimed(run / "metrics.jsonl")) == N_STEPS - 1
    finish(started(go, config, run))
    assert bits_of(run) == bits_of(whole[0])


def test_a_damaged_file_of_an_earlier_step_is_named(left_after):
    run = left_after(SECOND_POLICY_STEP)
    file = run / "steps" / "round-001-policy-00001.parquet"
    good = file.read_bytes()
    file.write_bytes(good[:50] + bytes(9) + good[59:])
    remedy = "restore a copy of it, or start a new run from what is in .*adapters"
    with pytest.raises(UserError, match=f"{file.name}: damaged \\(its checksum is wrong\\); {remedy}"):
        RunDir.resume(run)
    assert commits_of(run), "nothing that was committed is forgotten"
    file.write_bytes(good)
    with RunDir.resume(run) as resumed:
        assert not resumed.warnings


def test_what_no_step_needs_may_be_missing(left_after):
    run = left_after(GENERATED)
    (run / "trajectories" / "round-001-generator.parquet").unlink()
    with RunDir.resume(run) as resumed:
        (warning,) = resumed.warnings
    assert "round-001-generator.parquet: No such file" in warning and "goes on without" in warning


# --- what is refused, what is said --------------------------------------------------------------------------------


def test_a_finished_run_says_so(whole, tmp_path):
    run = shutil.copytree(whole[0], tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["train", "--resume", str(run)])
    assert result.exit_code == 0 and "finished, all 1 rounds; nothing to go on with" in result.stderr
    assert "Ground truth by round" in result.stdout
    picture = run / "curves.png"
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p != picture} == before


def test_a_run_has_one_process_at_a_time(left_after):
    run = left_after(GENERATED)
    with RunDir.resume(run), pytest.raises(UserError, match="another process is training this run"):
        train.resume(run)
    RunDir.resume(run).close()


def test_other_inputs_are_refused(config, left_after, tmp_path):
    topics = tmp_path / "topics.txt"
    run = left_after(GENERATED)
    shutil.copy(config.data.topics, topics)
    (run / "config.toml").write_text((run / "config.toml").read_text().replace(config.data.topics, str(topics)))
    topics.write_text(topics.read_text() + "one more\n")
    before = (run / "ledger.sqlite").read_bytes()
    with pytest.raises(UserError, match=r"data.topics: not what it was when the run started; restore it"):
        train.resume(run)
    assert (run / "ledger.sqlite").read_bytes() == before


def test_a_resume_takes_no_settings(whole):
    for option in (["--set", "rounds=9"], ["--recipe", "tiny"], ["--seed", "0"], ["--out", "x"], ["--dry-run"]):
        result = CliRunner().invoke(app, ["train", "--resume", str(whole[0]), *option])
        assert result.exit_code == 2 and f"{option[0]} cannot be combined with --resume; leave it out" in result.stderr


def test_what_is_no_run_is_named(left_after, tmp_path):
    with pytest.raises(UserError, match=r"config.toml: No such file or directory; name the folder of a run"):
        train.resume(tmp_path / "nowhere")
    run = left_after(GENERATED)
    for damaged in (lambda file: file.unlink(), lambda file: file.write_bytes(b"")):
        damaged(run / "ledger.sqlite")
        with pytest.raises(UserError, match=r"ledger.sqlite: empty or missing, though steps were done; restore a copy"):
            train.resume(run)
    assert (run / "steps").exists() and (run / "metrics.jsonl").exists()


def test_the_lab_is_opened_again_not_built_again(tmp_path):
    config = load_recipe("tiny", ["data.eval_count=6"])

    def marks():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")}

    first = lab_datasets(config, tmp_path)
    before = marks()
    shutil.rmtree(tmp_path / "heldout.idx")  # as a kill while it was built would have left it: not there
    again = lab_datasets(config, tmp_path)
    assert {p: t for p, t in marks().items() if "train.idx" in p.parts} == {
        p: t for p, t in before.items() if "train.idx" in p.parts
    }
    assert set(marks()) == set(before)
    assert again.policy_evals == first.policy_evals and again.grm_evals == first.grm_evals
    assert [again.eval_index.search([t.question], 2).ids for t in first.policy_evals] == [
        first.eval_index.search([t.question], 2).ids for t in first.policy_evals
    ]


# --- the command line ----------------------------------------------------------------------------------------------


def command(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "aslfast", "train", *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def once_written(run, n_lines, process):
    """Waits until so many steps are committed."""
    deadline = time.monotonic() + PATIENCE_S
    while len(untimed(run / "metrics.jsonl")) < n_lines:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_and_stopped_on_the_command_line(config, whole, tmp_path):
    """SIGKILL twice, SIGTERM once; the last resume prints the table of a run that nothing happened to."""
    run, recipe = tmp_path / "a run", tmp_path / "recipe.toml"
    recipe.write_text(to_toml(config))
    process = command("--recipe", recipe, "--out", run)
    once_written(run, 1, process)
    process.kill()
    process.communicate()
    process = command("--resume", run)
    once_written(run, 2, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130 and "resumed in round 1/1" in said
    assert said.splitlines()[-1] == f"aslfast: stopped; go on with: aslfast train --resume '{run}'"
    process = command("--resume", run, "--quiet")
    once_written(run, 4, process)
    process.kill()
    process.communicate()
    process = command("--resume", run, "--quiet")
    printed, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and "Ground truth by round" in printed, said
    assert bits_of(run) == bits_of(whole[0])
