"""The league: figures at a budget, its table and plot, and two recipes played side by side."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aslfast.config import load_recipe
from aslfast.metrics.run_log import RunLog
from bench.league.play import WORLDS, lab_recipes
from bench.league.rows import entry_of
from bench.league.table import draw, tables

ROOT = Path(__file__).resolve().parents[3]
SMALL = [
    "data.eval_count=4", "monitor.judge_probe=0", "data.labelled_count=12", "lora.rank=4", "sampler.max_turns=3",
    "policy.steps=1", "policy.prompts_per_step=2", "policy.group_size=4", "generator.steps=1",
]  # fmt: skip


def round_line(number, accuracy, **more):
    hops = {"1": {"accuracy": accuracy}, "2": {"accuracy": accuracy / 2}}
    return {"round": number, "policy_accuracy": accuracy, "by_hops": hops, "seconds": 30.0, **more}


def step_line(number, tokens, loss=0.1, **more):
    return {"round": number, "phase": "policy", "sampled_tokens": tokens, "loss": loss, **more}


ROUNDS = [round_line(0, 0.2), round_line(1, 0.4, grm_accuracy=0.6), round_line(2, 0.8, grm_accuracy=0.7, true_gap=0.1)]
STEPS = [
    step_line(1, 60), step_line(1, 40, other_updates={"writer": {}}), step_line(2, 100), step_line(2, 100, loss=None),
]  # fmt: skip


def test_an_entry_is_read_at_the_budget():
    """Rounds end at 0, 100 and 300 tokens; 200 lie half-way between the last two."""
    entry = entry_of(RunLog(ROUNDS, STEPS), seed=3, budget=200)
    assert (entry.seed, entry.accuracy, entry.before) == (3, pytest.approx(0.6), 0.2)
    assert entry.by_hops == {"1": pytest.approx(0.6), "2": pytest.approx(0.3)}
    assert (entry.judge, entry.solvable, entry.gap) == (0.7, None, 0.1)
    assert (entry.steps, entry.tokens, entry.minutes) == (4, 300, 1.5)
    assert entry.curve == ((0, 0.2), (100, 0.4), (300, 0.8))
    assert entry_of(RunLog(ROUNDS, STEPS), 0, 10**6).accuracy == 0.8  # a run that ends before has its end


def league(**runs):
    made = {"commit": "0123456789", "tokens": 200, "seeds": [0, 1]}
    return {**made, "league": {name: [entry.as_json() for entry in own] for name, own in runs.items()}}


def test_the_table_has_the_best_first_with_its_gain(tmp_path):
    good = [entry_of(RunLog(ROUNDS, STEPS), seed, budget) for seed, budget in ((0, 200), (1, 300))]
    poor = [entry_of(RunLog(ROUNDS, STEPS), seed, 100) for seed in (0, 1)]
    result = league(**{"poor-tiny": poor, "good-tiny": good})
    rows = [line for line in tables(result) if "-tiny" in line]
    assert rows[0].startswith("| good-tiny | 70.0% | +50.0 (-77.1 to +177.1) | 70/35 | 70.0% | - | 10.0% | 4 | 2 |")
    assert rows[1].startswith("| poor-tiny | 40.0% | +20.0 (+20.0 to +20.0) |")
    draw(result, tmp_path / "league.png")
    assert (tmp_path / "league.png").read_bytes()[:4] == b"\x89PNG"


def test_every_recipe_of_the_lab_is_in_it():
    names = lab_recipes()
    assert {"tiny", "search-r1-tiny", "r-zero-tiny", "absolute-zero-tiny"} <= set(names)
    assert all(name == "tiny" or name.endswith("-tiny") for name in names)


def test_the_second_world_has_the_settings_of_its_own_recipe():
    played, own = load_recipe("tiny", WORLDS[2]), load_recipe("tiny2")
    assert (played.data, played.model, played.sampler) == (own.data, own.model, own.sampler)
    assert played.generator.hops == own.generator.hops


def test_two_recipes_side_by_side(tmp_path):
    settings = [word for setting in SMALL for word in ("--set", setting)]
    command = [sys.executable, "-m", "bench.league.play", "search-r1-tiny", "nft-tiny", "--seeds", "0", "--tokens", "1",
               "--out", str(tmp_path), "--allow-dirty", *settings]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "league.json").read_text())
    for name in ("search-r1-tiny", "nft-tiny"):
        (run,) = result["league"][name]
        assert len(run["curve"]) == 2 and run["tokens"] > 0 and name in done.stdout  # one round is the least
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("ledger.sqlite")}
    assert len(before) == 2 + 2  # a run, and one round for the pace, of each recipe
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    assert before == {file: file.stat().st_mtime_ns for file in before}  # nothing is trained again
