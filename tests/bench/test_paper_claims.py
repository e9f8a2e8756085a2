"""The paper's claims in small: arms that resolve, statistics by hand, runs that are whole, words from numbers."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from aslfast.checkpoint.commits import Commit, Provenance
from aslfast.checkpoint.ledger import Ledger
from aslfast.cli.main import app
from aslfast.config import from_tree, to_toml, toml
from aslfast.errors import UserError
from bench.paper_claims import (
    bench_claims,
    report_claims,
)
from bench.paper_claims.arms import Arm, Check, Claim, Term, read_claims
from bench.paper_claims.finished_runs import check_same, finished, gather
from bench.paper_claims.plots import draw
from bench.paper_claims.statistics import (
    T_975,
    Interval,
    answer,
    answer_of_all,
    interquartile_mean,
    mean_difference,
    probability_of_improvement,
)

ROOT = Path(__file__).resolve().parents[2]

CLAIMS = read_claims()
ARMS = {arm.key: arm for claim in CLAIMS.values() for arm in claim.arms}


# --- what claims.toml says -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_arm_is_a_configuration_on_one_thread(arm):
    config = arm.config(2)
    assert (config.threads, config.seed, config.data.lab) == (1, 2, True)
    wanted = max(t.round for claim in CLAIMS.values() for check in claim.checks for t in Check.read(check).terms)
    assert config.rounds >= wanted


def test_arms_differ_only_in_what_the_claim_is_about():
    asl, frozen = ARMS["asl"].config(0), ARMS["frozen"].config(0)
    assert (asl.grm.steps, frozen.grm.steps) == (5, 0)
    assert to_toml(asl).replace("steps = 5", "steps = 0") == to_toml(frozen)


@pytest.mark.parametrize("text", ["truth asl 4", "+ truth asl last", "* truth asl 4", "+- truth asl 4", "+ gain asl 4"])
def test_term_that_cannot_be_read(text):
    with pytest.raises(UserError, match="cannot be read"):
        Term.read(text)


def test_claim_with_an_arm_that_is_not_its_own(tmp_path):
    file = tmp_path / "claims.toml"
    file.write_text(
        'set = []\n[arms.one]\nname = "one"\nrecipe = "tiny"\n[arms.two]\nname = "two"\nrecipe = "tiny"\n'
        '[claims.x]\ntitle = "x"\nsentence = "x"\narms = ["one"]\n'
        'checks = [{ says = "x", terms = ["+ truth one 1", "- truth two 1"] }]\n'
    )
    with pytest.raises(UserError, match="claim x names the arm 'two'"):
        read_claims(file)


# --- statistics ------------------------------------------------------------------------------------------------


def test_interquartile_mean_by_hand():
    scores = np.arange(1.0, 10).reshape(3, 3)
    assert interquartile_mean(scores).value == 5  # 3 4 5 6 7
    scores[2, 2], scores[0, 0] = 1000, -1000
    assert interquartile_mean(scores).value == 5
    assert interquartile_mean(np.array([[0.0, 1], [2, 9]])).value == 1.5  # 1 2


def test_bootstrap_draws_runs_within_each_task():
    same = interquartile_mean(np.tile([0.9, 0.7, 0.5], (3, 1)))
    assert (same.low, same.value, same.high) == pytest.approx((0.7, 0.7, 0.7))  # no run differs from another
    mixed = interquartile_mean(np.array([[0.9, 0.7, 0.5], [0.8, 0.6, 0.4], [0.95, 0.75, 0.6]]))
    assert 0.6 < mixed.low < mixed.value < mixed.high < 0.75


def test_probability_of_improvement_by_hand():
    first, second = np.array([[1.0, 5], [3, 5]]), np.array([[2.0, 5], [0, 5]])
    # task 1: 1>0, 3>2, 3>0 of 4 pairs; task 2: all ties
    assert probability_of_improvement(first, second) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert probability_of_improvement(second, first) == pytest.approx(1 - 5 / 8)
    assert probability_of_improvement(first + 10, second) == 1


def test_interval_of_differences_by_hand():
    found = mean_difference([1.0, 2.0, 3.0])
    assert (found.value, found.high - 2, 2 - found.low) == pytest.approx((2, *[4.3027 / math.sqrt(3)] * 2))
    for too_few_or_many in ([1.0], [1.0] * 21):
        with pytest.raises(UserError, match="seeds give no interval"):
            mean_difference(too_few_or_many)


def test_quantiles_leave_a_fortieth_above():
    """Half of Student's density lies above 0; integrated here from 0 to the quantile it must give 0.475."""
    for degrees, quantile in enumerate(T_975, 1):
        x = np.linspace(0, quantile, 20_001)
        norm = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
        density = norm * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
        assert np.trapezoid(density, x) == pytest.approx(0.475, abs=4e-6), degrees  # four digits of the quantile


def test_with_three_seeds_the_t_interval_covers_and_the_bootstrap_does_not():
    """Why the t interval decides: scores of 100 questions each with a spread of 3 points between seeds."""
    rng, hops, trials = np.random.default_rng(0), np.array([0.9, 0.75, 0.56]), 1500

    def scores(n):
        return rng.binomial(100, np.clip(hops + rng.normal(0, 0.03, (n, 3, 1)), 0, 1)) / 100

    t = [mean_difference(run.mean(axis=1)) for run in scores(trials)]
    assert 0.93 < np.mean([i.low <= hops.mean() <= i.high for i in t]) < 0.97
    middle = np.mean(np.sort(scores(50_000).reshape(-1, 9), axis=1)[:, 2:7])
    bootstrap = [interquartile_mean(run) for run in scores(250)]
    assert 0.65 < np.mean([i.low <= middle <= i.high for i in bootstrap]) < 0.85


def test_answers_follow_from_the_interval():
    found = [answer(Interval(0, low, high)) for low, high in ((0.1, 2), (-2, -0.1), (-1, 1), (0, 0))]
    assert found == ["yes", "no", "not told apart", "not told apart"]
    assert [answer_of_all(a) for a in (["yes", "yes"], ["yes", "no"], ["yes", "not told apart"])] == [
        "yes", "no", "not told apart",
    ]  # fmt: skip


# --- runs ------------------------------------------------------------------------------------------------------

SMALL = Arm("small", "a small arm", "tiny", ("threads=1", "rounds=1"))


def round_line(number, truth):
    hops = {str(h): {"accuracy": truth + 0.1 * (2 - h), "low": 0.0, "high": 1.0, "n": 100} for h in (1, 2, 3)}
    shares = {"policy_accuracy": truth, "grm_accuracy": 0.75, "solvable_share": 0.6}
    return {"round": number, **shares, "by_hops": hops, "n_eval": 300, "seconds": 60.0}


def step_line(phase, step, reward, form):
    parts = {"judge": reward - form, "format": form}
    return {"round": 1, "phase": phase, "step": step, "reward": reward, "reward_parts": parts, "sampled_tokens": 1000}


def write_run(folder, truths=(0.4, 0.6), arm=SMALL, seed=0):
    """A run as train leaves it, as far as anything here reads it."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(arm.config(seed)))
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.read()
    ledger.append(Commit("run_started", provenance=Provenance({}, {"torch": "2.13.0"})))
    ledger.append(Commit("round", lines={"rounds.jsonl": round_line(0, truths[0])}))
    steps = [step_line("generator", 1, 0.5, 0.1), step_line("policy", 1, 0.5, 0.1), step_line("policy", 2, 0.7, 0.2)]
    for step in steps:
        ledger.append(Commit("step", {"pool": {step["phase"]: {}}}, lines={"metrics.jsonl": step}))
    ledger.append(Commit("phase", {"pool": {"policy": None}}))
    for number, truth in enumerate(truths[1:], 1):
        ledger.append(Commit("round", lines={"rounds.jsonl": round_line(number, truth)}))
    ledger.close()
    return folder


def test_run_is_gathered_round_by_round(tmp_path):
    run = write_run(tmp_path / "small-s0")
    assert finished(run)
    found = gather(run, SMALL, 0, [{"commit": "abc"}])
    assert (found["made"], found["software"]) == ([{"commit": "abc"}], {"torch": "2.13.0"})
    base, last = found["rounds"]
    assert (base["truth"], base["reward"], base["pool"], base["sampled_tokens"]) == (0.4, None, 0, 0)
    assert last["reward"] == pytest.approx((0.4 + 0.5) / 2)  # without the format parts
    assert last["rewards"] == {"generator": 0.5, "grm": None, "policy": pytest.approx(0.6)}
    assert (last["pool"], last["sampled_tokens"], last["seconds"], last["grm"]) == (1, 3000, 60, 0.75)
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
    with pytest.raises(UserError, match="no run there"):
        gather(tmp_path / "none", SMALL, 0, [])
    run = write_run(tmp_path / "small-s0", truths=(0.4,))
    assert not finished(run)
    assert not finished(tmp_path / "none")
    with pytest.raises(UserError, match="round 1 is missing"):
        gather(run, SMALL, 0, [])
    (run / "ledger.sqlite").unlink()
    with pytest.raises(UserError, match=r"ledger\.sqlite: not there"):
        gather(run, SMALL, 0, [])
    assert not (run / "ledger.sqlite").exists()


def test_collecting_wants_to_know_what_made_the_runs(tmp_path):
    claim = CLAIMS["a"]
    for arm in claim.arms:
        write_run(arm.folder(tmp_path, 0), (0.4, 0.6, 0.7, 0.7, 0.7), arm)
    with pytest.raises(UserError, match="asl-s0: nothing says which commit made it"):
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
    run = write_run(tmp_path / "small-s0", truths=(0.4,))
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
        bench_claims.train_all(Claim("x", "", "", (SMALL, wrong), (), False), [0], tmp_path / "runs", 1, {})
    assert not (tmp_path / "runs").exists()


# --- the report ------------------------------------------------------------------------------------------------


def small_result(gains=(0.10, 0.12, 0.11)):
    """Two arms of one round: the first ends `gains` above the second, seed by seed."""

    def rounds(truth):
        entry = {"grm": 0.7, "solvable": 0.6, "reward": 0.5, "pool": 40, "sampled_tokens": 1e6, "seconds": 60.0}
        made = []
        for number, value in enumerate((0.4, truth)):
            by_hops = {"1": value + 0.1, "2": value, "3": value - 0.1}
            made.append({**entry, "round": number, "truth": value, "by_hops": by_hops, "n_eval": 300})
        return {"made": [{"commit": "c" * 40}], "software": {"torch": "2.13.0"}, "rounds": made}

    def arm(name, truths):
        return {"name": name, "recipe": "tiny", "set": [], "runs": {str(i): rounds(t) for i, t in enumerate(truths)}}

    checks = [{"says": "one ends higher", "terms": ["+ truth one 1", "- truth two 1"]}]
    arms = {"one": arm("first", [0.5 + gain for gain in gains]), "two": arm("second", [0.5] * 3)}
    stamp = {"commit": "d" * 40, "dirty": False, "device": "a CPU", "cores": 2, "date": "2026-11-21T00:00"}
    claim = {"claim": "a", "title": "small", "sentence": "It helps.", "seeds": [0, 1, 2], "show_reward": True}
    return {**stamp, **claim, "checks": checks, "arms": arms}


def test_report_says_what_the_numbers_say():
    text = "\n".join(report_claims.section(small_result()))
    assert "| one ends higher | +10.0, +12.0, +11.0 | +11.0 (+8.5 to +13.5) | 100% | yes |" in text
    assert "| first | 40 61 | 61.0% (" in text and "| 60.0%, 62.0%, 61.0% | 71/61/51 | 70.0% |" in text
    assert "Runs made by commit cccccccc, torch 2.13.0, gathered by dddddddd on a CPU" in text
    worse = "\n".join(report_claims.section(small_result((-0.10, -0.12, -0.11))))
    assert "| 0% | no |" in worse and "| **all of it** | | | | **no** |" in worse
    unsure = "\n".join(report_claims.section(small_result((-0.10, 0.12, 0.11))))
    assert "| **all of it** | | | | **not told apart** |" in unsure


def test_readme_shows_a_row_a_claim_measured_or_not():
    _, _, first, second, *_ = report_claims.readme_block({"a": small_result()}, CLAIMS)
    assert "one ends higher: +11.0 (+8.5 to +13.5) | **yes** |" in first
    assert second.startswith("| (b) ") and second.endswith("| not measured yet |  |  |")


def test_pages_show_what_was_measured_and_no_more():
    files = sorted((ROOT / "bench" / "results").glob("claims-*.json"))
    results = {result["claim"]: result for result in (json.loads(file.read_text()) for file in files)}
    for page, block in (("README.md", report_claims.readme_block), ("docs/claims.md", report_claims.docs_block)):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert report_claims.between(text, block(results, CLAIMS)) == text, (
            f"{page}: run bench/paper_claims/report_claims.py"
        )


def test_picture_has_a_panel_a_claim(tmp_path):
    """Wider with each claim up to three, then higher; arms without any spread are drawn too."""
    sizes = []
    for count in (1, 3, 4):
        draw({str(i): small_result((0.1, 0.1, 0.1)) for i in range(count)}, tmp_path / "claims.png")
        header = (tmp_path / "claims.png").read_bytes()[16:24]
        sizes.append((int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")))
    assert sizes[0][0] < sizes[1][0] == sizes[2][0] and sizes[0][1] == sizes[1][1] < sizes[2][1]
