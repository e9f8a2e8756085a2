"""The runs of a claim: trained as the arm says, gathered only if they are the arm's and finished."""

import sys

import pytest
from typer.testing import CliRunner

from aslfast.checkpoint.commits import Commit, Provenance
from aslfast.checkpoint.ledger import Ledger
from aslfast.cli.main import app
from aslfast.config import from_tree, to_toml, toml
from aslfast.errors import UserError
from bench.paper_claims import bench_claims
from bench.paper_claims.arms import Arm, Claim, read_claims
from bench.paper_claims.finished_runs import check_same, finished, gather

CLAIMS = read_claims()
ARMS = {arm.key: arm for claim in CLAIMS.values() for arm in claim.arms}
SMALL = Arm("small", "a small arm", "tiny", ("threads=1", "rounds=1"))


def round_line(number, accuracy):
    hops = {str(h): {"accuracy": accuracy + 0.1 * (2 - h), "low": 0.0, "high": 1.0, "n": 100} for h in (1, 2, 3)}
    scores = {"policy_accuracy": accuracy, "grm_accuracy": 0.75, "solvable_share": 0.6}
    return {"round": number, **scores, "by_hops": hops, "n_eval": 300, "seconds": 60.0}


def step_line(phase, step, reward, form):
    parts = {"judge": reward - form, "format": form}
    return {"round": 1, "phase": phase, "step": step, "reward": reward, "reward_parts": parts, "sampled_tokens": 1000}


def write_run(folder, accuracies=(0.4, 0.6), arm=SMALL, seed=0):
    """A run as train leaves it, as far as anything here reads it."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(arm.config(seed)))
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.read()
    ledger.append(Commit("run_started", provenance=Provenance({}, {"torch": "2.13.0"})))
    ledger.append(Commit("round", lines={"rounds.jsonl": round_line(0, accuracies[0])}))
    steps = [step_line("generator", 1, 0.5, 0.1), step_line("policy", 1, 0.5, 0.1), step_line("policy", 2, 0.7, 0.2)]
    for step in steps:
        ledger.append(Commit("step", {"pool": {step["phase"]: {}}}, lines={"metrics.jsonl": step}))
    ledger.append(Commit("phase", {"pool": {"policy": None}}))
    for number, accuracy in enumerate(accuracies[1:], 1):
        ledger.append(Commit("round", lines={"rounds.jsonl": round_line(number, accuracy)}))
    ledger.close()
    return folder


def test_run_is_gathered_round_by_round(tmp_path):
    run = write_run(tmp_path / "small-s0")
    assert finished(run)
    found = gather(run, SMALL, 0, [{"commit": "abc"}])
    assert (found["made"], found["software"]) == ([{"commit": "abc"}], {"torch": "2.13.0"})
    base, last = found["rounds"]
    assert (base["accuracy"], base["reward"], base["pool_questions"], base["sampled_tokens"]) == (0.4, None, 0, 0)
    assert last["reward"] == pytest.approx((0.4 + 0.5) / 2)  # without the format parts
    assert last["rewards"] == {"generator": 0.5, "grm": None, "policy": pytest.approx(0.6)}
    assert (last["pool_questions"], last["sampled_tokens"], last["seconds"], last["grm"]) == (1, 3000, 60, 0.75)
    assert last["by_hops"] == pytest.approx({"1": 0.7, "2": 0.6, "3": 0.5})


def test_run_with_another_configuration_is_refused_by_its_key(tmp_path):
    run = write_run(tmp_path / "small-s0")
    with pytest.raises(UserError, match="seed is 0, the arm small with seed 1 has 1"):
        gather(run, SMALL, 1, [])
    with pytest.raises(UserError, match=r"grm\.steps is 5, the arm frozen with seed 0 has 0"):
        check_same(run, Arm("frozen", "", "tiny", ("threads=1", "rounds=1", "grm.steps=0")), 0)


def test_run_from_before_a_setting_existed_had_its_default(tmp_path):
    run = write_run(tmp_path / "small-s0")
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("share_verdicts = false\n", ""))
    assert text != (run / "config.toml").read_text()
    check_same(run, SMALL, 0)


def test_run_that_is_not_there_or_not_finished_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run in it"):
        gather(tmp_path / "none", SMALL, 0, [])
    run = write_run(tmp_path / "small-s0", accuracies=(0.4,))
    assert not finished(run)
    assert not finished(tmp_path / "none")
    with pytest.raises(UserError, match="round 1 is missing"):
        gather(run, SMALL, 0, [])
    (run / "ledger.sqlite").unlink()
    with pytest.raises(UserError, match=r"ledger\.sqlite: missing"):
        gather(run, SMALL, 0, [])
    assert not (run / "ledger.sqlite").exists()


def test_collecting_wants_to_know_what_made_the_runs(tmp_path):
    claim = CLAIMS["a"]
    for arm in claim.arms:
        write_run(arm.folder(tmp_path, 0), (0.4, 0.6, 0.7, 0.7, 0.7), arm)
    with pytest.raises(UserError, match="asl-s0: its commit is not recorded"):
        bench_claims.collect(claim, [0], tmp_path, None)
    found = bench_claims.collect(claim, [0], tmp_path, "abc")
    assert [run["made"] for arm in found["arms"].values() for run in arm["runs"].values()] == [[{"commit": "abc"}]] * 2


def test_run_is_started_as_its_arm_says(tmp_path):
    arm = ARMS["rule"]
    python, dash_m, aslfast, *words = bench_claims.command(arm, 3, arm.folder(tmp_path, 3))
    assert (python, dash_m, aslfast) == (sys.executable, "-m", "aslfast")
    plan = CliRunner().invoke(app, [*words, "--dry-run"])
    assert plan.exit_code == 0, plan.output
    assert from_tree(toml.parse(plan.stdout), "plan") == arm.config(3)
    run = write_run(tmp_path / "small-s0", accuracies=(0.4,))
    assert bench_claims.command(SMALL, 0, run)[-2:] == ["--resume", str(run)]


def test_finished_run_is_left_alone_and_another_one_refused(tmp_path):
    run = write_run(tmp_path / "small-s0")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    bench_claims.train(SMALL, 0, tmp_path, {"commit": "abc"})
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file != run} == {
        file: time for file, time in before.items() if file != run
    }
    with pytest.raises(UserError, match=r"grm\.steps is 5"):
        bench_claims.train(Arm("small", "", "tiny", (*SMALL.overrides, "grm.steps=0")), 0, tmp_path, {"commit": "abc"})


def test_training_that_fails_names_its_log_and_starts_no_other(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS $*"; exit 3\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(UserError, match=r"asl-s0: training ended with code 3; see .*asl-s0\.log"):
        bench_claims.train_all(CLAIMS["a"], [0, 1, 2, 3, 4], tmp_path / "runs", 1, {"commit": "abc"})
    words = (tmp_path / "runs" / "asl-s0.log").read_text()
    assert words.startswith("1 -m aslfast train --quiet --recipe tiny --seed 0 ")
    assert words.endswith("--set threads=1 --set rounds=4\n")
    assert (tmp_path / "runs" / "asl-s0.made.jsonl").read_text() == '{"commit": "abc"}\n'
    assert not (tmp_path / "runs" / "frozen-s4.log").exists()


def test_arm_that_cannot_be_is_told_before_anything_is_trained(tmp_path):
    wrong = Arm("wrong", "", "tiny", ("grm.stepz=0",))
    with pytest.raises(UserError, match=r"unknown key 'grm\.stepz'"):
        bench_claims.train_all(Claim("x", "", "", (SMALL, wrong), (), False, 3), [0], tmp_path / "runs", 1, {})
    assert not (tmp_path / "runs").exists()
