"""Trackers: names, the same figures in each, each line once over kills and resumes, failures that stop nothing."""

from __future__ import annotations

import json
import time
from typing import ClassVar

import pytest

from aslfast.checkpoint.recovery import METRICS, ROUNDS
from aslfast.checkpoint.run_dir import RunDir
from aslfast.config import load_recipe
from aslfast.errors import UserError
from aslfast.trainer.tracking import backends
from aslfast.trainer.tracking.backends import TrackedRun, check_installed
from aslfast.trainer.tracking.follow import STATE, Followers, tracked
from aslfast.trainer.tracking.scalars import round_scalars, step_scalars
from tests.support.cli.page_runs import step_line
from tests.support.run_files import round_line
from tests.support.trainer.wandb_file import history

STEP = {
    **step_line("grm", 1), "reward_parts": {"match": 0.75}, "kl": None, "not_finite": [],
    "prefix_cache": {"grm": {"reused": 7}},
}  # fmt: skip
PLAYERS = {"asker": {"reward": -1.0}, "grm": {"reward": 1.0}}
DUEL = {"round": 1, "phase": "Duel", "step": 1, "loss": 0.5, "roles": PLAYERS}


class Fake:
    """Keeps what it is given; raises at a step, if told to."""

    made: ClassVar[list[Fake]] = []
    fails_at: ClassVar[int | None] = None

    def __init__(self, run: TrackedRun) -> None:
        self.run, self.given, self.closed, self.id = run, [], False, run.id or "fresh"
        Fake.made.append(self)

    def log(self, scalars, step):
        if step == Fake.fails_at:
            raise ConnectionError("no\nnetwork")
        self.given.append((step, scalars))

    def close(self):
        self.closed = True


@pytest.fixture
def fake(monkeypatch):
    Fake.made, Fake.fails_at = [], None
    monkeypatch.setitem(backends.TRACKERS, "wandb", ("json", Fake))
    return Fake


@pytest.fixture
def run(tmp_path):
    """A run's folder, of which the lines alone are used."""
    made = RunDir.create(tmp_path / "run", load_recipe("tiny"))
    yield made
    made.close()


CONFIG = load_recipe("tiny", ['tracker=["wandb"]'])


def write(run, file, line):
    """What a commit does with a line."""
    run.history.setdefault(file, []).append(line)
    for follow in run.followers:
        follow(file, line)


# --- names ---------------------------------------------------------------------------------------------------------


def test_names_of_a_step():
    scalars = step_scalars(STEP)
    assert scalars["judge/reward"] == 0.1 and scalars["judge/reward_parts/match"] == 0.75 and scalars["round"] == 1
    assert scalars["judge/prefix_cache/judge/reused"] == 7 and scalars["judge/tokens_per_s"] == 900
    assert not {name for name in scalars if "phase" in name or "kl" in name or "not_finite" in name}
    assert step_scalars(DUEL) == {"round": 1.0, "asker/reward": -1.0, "judge/reward": 1.0, "Duel/loss": 0.5}


def test_names_of_a_round():
    scalars = round_scalars({**round_line(2, 0.5, 0.75, (0.5,)), "alarms": [{"name": "a"}], "f1": 0.6})
    assert (scalars["policy/accuracy"], scalars["judge/accuracy"], scalars["generator/solvable"]) == (0.5, 0.75, 0.5)
    assert scalars["eval/f1"] == 0.6 and scalars["eval/alarms"] == 1 and scalars["round"] == 2
    assert scalars["eval/by_hops/1/accuracy"] == 0.5 and "eval/policy_interval/0" in scalars


# --- each line once ------------------------------------------------------------------------------------------------


def test_lines_come_once_and_in_order_over_a_kill(run, fake):
    with tracked(CONFIG, run, pytest.fail):
        write(run, ROUNDS, round_line(0, 0.4, 0.7, (0.4,)))
        write(run, METRICS, step_line("policy", 1))
        write(run, METRICS, step_line("policy", 2))
    run.followers.clear()
    write(run, ROUNDS, round_line(1, 0.5, 0.7, (0.5,)))  # committed, and the run was killed before the tracker heard
    with tracked(CONFIG, run, pytest.fail):
        write(run, METRICS, step_line("policy", 1, 2))
    first, second = fake.made
    assert [step for step, _ in first.given] == [0, 1, 2] and first.closed and second.run.id == "fresh"
    assert [step for step, _ in second.given] == [2, 3] and second.run.next_step == 2
    assert second.given[0][1]["policy/accuracy"] == 0.5
    assert json.loads((run.path / STATE).read_text()) == {"wandb": {"id": "fresh", "lines": 5}}


def test_a_tracker_that_is_added_later_is_given_everything(run, fake):
    for step in (1, 2):
        write(run, METRICS, step_line("policy", step))
    write(run, ROUNDS, round_line(1, 0.5, 0.7, (0.5,)))
    Followers(CONFIG, run, pytest.fail)
    assert [step for step, _ in fake.made[0].given] == [1, 2, 2]


def test_a_tracker_that_fails_is_one_warning(run, fake):
    said = []
    fake.fails_at = 2
    with tracked(CONFIG, run, said.append):
        for step in (1, 2, 3):
            write(run, METRICS, step_line("policy", step))
    assert said == ["tracker wandb: ConnectionError: no network; the run goes on without it"]
    assert [step for step, _ in fake.made[0].given] == [1]
    fake.fails_at = None
    with tracked(CONFIG, run, said.append):  # at the next resume it is given what it missed
        pass
    assert [step for step, _ in fake.made[1].given] == [2, 3] and len(said) == 1


def test_a_state_that_is_damaged_or_cannot_be_written_stops_nothing(run, fake):
    said = []
    (run.path / STATE).write_text("[")
    with tracked(CONFIG, run, said.append):
        write(run, METRICS, step_line("policy", 1))
    assert said == [] and fake.made[0].run.id == ""
    (run.path / STATE).unlink()
    (run.path / STATE).mkdir()
    with tracked(CONFIG, run, said.append):
        write(run, METRICS, step_line("policy", 2))
    assert fake.made[1].closed and all(text.startswith(f"tracker {STATE}: ") for text in said) and said


def test_without_trackers_nothing_is_written(run):
    with tracked(load_recipe("tiny"), run, pytest.fail):
        write(run, METRICS, step_line("policy", 1))
    assert not (run.path / STATE).exists()


def test_a_tracker_that_is_not_installed_is_an_error_before_the_run(monkeypatch):
    monkeypatch.setitem(backends.TRACKERS, "mlflow", ("no_such_package_here", Fake))
    with pytest.raises(UserError, match=r"no_such_package_here is not installed; pip install 'aslfast\[trackers"):
        check_installed(("mlflow",))
    with pytest.raises(UserError, match="tracker"):
        load_recipe("tiny", ['tracker=["neptune"]'])


# --- the same figures in each --------------------------------------------------------------------------------------

LINES = [
    (ROUNDS, round_line(0, 0.4, 0.7, (0.4,))), (METRICS, STEP), (METRICS, step_line("policy", 1)),
    (ROUNDS, {**round_line(1, 1 / 3, 0.7, (0.4,)), "alarms": []}),
]  # fmt: skip


def followed(run, name, pause_s=0.0):
    """Two lines, a resume, two more."""
    config = load_recipe("tiny", [f'tracker=["{name}"]'])
    for half in (LINES[:2], LINES[2:]):
        with tracked(config, run, pytest.fail):
            for file, line in half:
                write(run, file, line)
        run.followers.clear()
        time.sleep(pause_s)
    return {(step, key): value for step, line in zip((0, 1, 2, 2), LINES, strict=True)
            for key, value in (round_scalars if line[0] == ROUNDS else step_scalars)(line[1]).items()}  # fmt: skip


def test_tensorboard(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted = followed(run, "tensorboard")
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    found = {(e.step, tag): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    assert found == pytest.approx(wanted, rel=1e-6)  # it keeps float32


def test_mlflow(run, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking import MlflowClient

    wanted = followed(run, "mlflow")
    client = MlflowClient(tracking_uri=(run.path / "mlruns").as_uri())
    (kept,) = client.search_runs([client.get_experiment_by_name("aslfast").experiment_id])
    history = {key: client.get_metric_history(kept.info.run_id, key) for key in kept.data.metrics}
    assert {(m.step, key): m.value for key, metrics in history.items() for m in metrics} == wanted
    assert kept.data.params["recipe"] == "tiny" and kept.info.run_name == "run"


def test_wandb_offline(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wanted = followed(run, "wandb", pause_s=1.1)  # the folder of an offline run has the second in its name
    ids, found = history(run.path / "wandb")
    assert len(ids) == 1 and found == wanted
