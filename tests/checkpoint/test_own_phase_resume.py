"""A run of a phase of one's own that uses every hook: killed and resumed, to the same bits; and on two ranks."""

import json
import random
import signal
import sqlite3

import pytest

from aslfast.config import load_recipe, to_toml
from tests.support.killed_runs import bits_of, go, started, untimed
from tests.support.rank_processes import command, exit_codes, ranks_of, same_run

RECIPE = [
    'phases=["tests.support.own.hooks:Everything"]', "own_phase.Everything.steps=2", "rounds=2", "threads=1",
    "own_phase.Everything.tasks_per_step=2", "own_phase.Everything.group_size=3", "sampler.max_turns=2",
    "sampler.max_new_tokens=16", "data.labelled_count=8", "data.eval_count=2", "data.lab=true", "lora.rank=2",
    'roles.past.adapter="policy@previous"', 'roles.student.adapter=""', "roles.kept.frozen=true",
    "roles.policy.tools=[]", "advantage.group_by=role", "advantage.baseline=moving", "loss.kl_coef=0.1",
]  # fmt: skip
PATIENCE_S = 300


def config_of():
    return load_recipe("search-r1-tiny", RECIPE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = started(go, config_of(), folder)
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    return folder


def kept_of(run):
    """What the phase kept, after the last commit, by path."""
    found = {}
    with sqlite3.connect(run / "ledger.sqlite") as store:
        for (body,) in store.execute("SELECT body FROM commits ORDER BY number"):
            found |= json.loads(body)["state"].get("own", {})
    return {tuple(json.loads(key))[1:]: json.loads(text) for key, text in found.items() if text is not None}


def test_what_it_keeps_is_committed_by_the_record(whole):
    kept = kept_of(whole)
    assert len(kept["gains",]) == 4
    assert sum(item["drawn"] for path, item in kept.items() if path[:2] == ("pool", "items")) == 8
    stored = [item for path, items in kept.items() if path[:2] == ("replay", "kept") for item in items]
    assert 0 < len(stored) <= 6 and all(len(s["trajectory"]["logprobs"]) > 0 for s in stored)


def test_the_steps_say_what_the_hooks_did(whole):
    lines = untimed(whole / "metrics.jsonl")
    assert [line["replayed"] for line in lines] == [0, 4, 4, 4] and {line["left_out"] for line in lines} == {0}
    assert sum(sum(line.get("failed_checks", {}).values()) for line in lines) > 0
    assert all(set(line["roles"]) == {"policy", "past"} and "other_updates" not in line for line in lines)
    assert sorted(path.name for path in (whole / "adapters").iterdir()) == ["policy"]


def test_kills_change_no_bit(whole, tmp_path):
    killed, ends, rng = tmp_path / "killed", [], random.Random(7)
    for _ in range(4):
        process = started(go, config_of(), killed, rng.randint(25, 60))
        process.join(PATIENCE_S)
        ends.append(process.exitcode)
    assert set(ends) <= {-signal.SIGKILL, 0} and ends.count(-signal.SIGKILL) > 1
    process = started(go, config_of(), killed)
    process.join(PATIENCE_S)
    assert process.exitcode == 0 and bits_of(killed) == bits_of(whole) and kept_of(killed) == kept_of(whole)


def test_two_ranks_play_as_one(whole, tmp_path):
    (tmp_path / "recipe.toml").write_text(to_toml(config_of()))
    arguments = "train", "--recipe", tmp_path / "recipe.toml", "--out", tmp_path / "run"
    assert exit_codes(ranks_of(2, command, tmp_path, *arguments), PATIENCE_S) == [0, 0]
    same_run(tmp_path / "run", whole)
    assert kept_of(tmp_path / "run").keys() == kept_of(whole).keys()
