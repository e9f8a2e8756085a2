"""A run in an environment of one's own that carries a state is killed and resumed, and ends with the same bits."""

import json
import os
import re
import signal
import sqlite3

import pyarrow.parquet as pq
import pytest

from aslfast.checkpoint.run_dir import RunDir
from aslfast.config import load_recipe, to_toml
from aslfast.errors import UserError
from aslfast.trainer import train
from tests.support.killed_runs import bits_of, go, started, untimed
from tests.support.rank_processes import command, exit_codes, ranks_of, same_run

OWN = "tests.support.own.environments"
SMALL = [
    "policy.reward=environment", "rounds=2", "threads=1", "policy.steps=2", "policy.prompts_per_step=2",
    "policy.group_size=3", "sampler.max_turns=3", "sampler.max_new_tokens=24",
]  # fmt: skip
PATIENCE_S = 300


def config_of(name, *more):
    return load_recipe("search-r1-tiny", [f"environment={OWN}:{name}", *SMALL, *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = started(go, config_of("Game"), folder)
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    return folder


def states_of(run):
    """The environment's state after each commit that changed it."""
    with sqlite3.connect(run / "ledger.sqlite") as store:
        bodies = [json.loads(body) for (body,) in store.execute("SELECT body FROM commits ORDER BY number")]
    return [json.loads(body["state"]["environment"]) for body in bodies if "environment" in body["state"]]


def test_the_state_is_committed_with_every_step(whole):
    lines = untimed(whole / "metrics.jsonl")
    levels = [state["level"] for state in states_of(whole)]
    assert levels == [1, *(1 + sum(line["trajectories"] + 1 for line in lines[:n]) for n in range(1, 5))]


def test_the_state_makes_the_next_tasks(whole):
    asked = [
        {re.match(r"level (\d+)", row["question"])[1] for row in pq.read_table(path).to_pylist()}
        for path in sorted((whole / "trajectories").iterdir())
    ]
    levels = [state["level"] for state in states_of(whole)]
    assert asked == [{"1"}, {str(levels[2])}] and levels[2] > 1
    assert len({line["reward"] for line in untimed(whole / "metrics.jsonl")}) > 1


def test_kills_change_no_bit(whole, tmp_path):
    killed, ends = tmp_path / "killed", []
    for operations in (35, 45, 55):
        process = started(go, config_of("Game"), killed, operations)
        process.join(PATIENCE_S)
        ends.append(process.exitcode)
    assert set(ends) <= {-signal.SIGKILL, 0} and ends.count(-signal.SIGKILL) > 1
    process = started(go, config_of("Game"), killed)
    process.join(PATIENCE_S)
    assert process.exitcode == 0 and bits_of(killed) == bits_of(whole) and states_of(killed) == states_of(whole)


def test_two_ranks_carry_the_same_state(whole, tmp_path):
    (tmp_path / "recipe.toml").write_text(to_toml(config_of("Game")))
    arguments = "train", "--recipe", tmp_path / "recipe.toml", "--out", tmp_path / "run"
    assert exit_codes(ranks_of(2, command, tmp_path, *arguments), PATIENCE_S) == [0, 0]
    same_run(tmp_path / "run", whole)
    assert states_of(tmp_path / "run") == states_of(whole)


def test_a_method_that_moves_the_state_ends_the_run_before_the_step_is_committed(tmp_path):
    with pytest.raises(UserError, match="MovesInTheRun: another method than update changed what state returns"):
        train.train(config_of("MovesInTheRun"), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_another_source_is_refused(tmp_path, monkeypatch):
    (tmp_path / "my_env.py").write_text(f"from {OWN} import FailsLater as Env\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load_recipe("search-r1-tiny", ["environment=my_env:Env", *SMALL, "rounds=0"])
    train.train(config, tmp_path / "run")
    with RunDir.resume(tmp_path / "run") as run:
        assert "environment" in run.provenance.inputs
    text = (tmp_path / "run" / "config.toml").read_text()
    (tmp_path / "run" / "config.toml").write_text(text.replace("rounds = 0", "rounds = 1"))
    with open(tmp_path / "my_env.py", "a") as file:
        file.write("# other rules\n")
    os.utime(tmp_path / "my_env.py")
    with pytest.raises(UserError, match="environment: not what it was when the run started"):
        train.resume(tmp_path / "run")
