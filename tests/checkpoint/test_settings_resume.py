"""Runs whose settings change are killed and resumed, and end with the same bits; two ranks take the steps of one."""

import signal

import pytest

from aslfast.config import to_toml
from tests.support.faults.setting_runs import go_setting
from tests.support.killed_runs import bits_of, go, lab_config, started, untimed
from tests.support.rank_processes import command, exit_codes, ranks_of

SCHEDULES = [
    "schedule.learner.learning_rate.values=[4e-3, 1e-3]", "schedule.learner.learning_rate.warmup=1",
    "schedule.sampler.temperature.by_round=[0.8, 0.7]", "schedule.loss.clip_high.values=[0.3, 0.1]", "rounds=2",
    "schedule.policy.group_size.by_round=[3, 4]", "policy.steps=1", "advantage.drop_zero_variance=false",
]  # fmt: skip
PATIENCE_S = 300


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return lab_config(tmp_path_factory.mktemp("world"), SCHEDULES)


def done(target, config, run, *more):
    process = started(target, config, run, *more)
    process.join(PATIENCE_S)
    return process.exitcode


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert done(go, config, folder) == 0
    return folder


def test_the_lines_say_what_each_step_had(whole):
    lines = untimed(whole / "metrics.jsonl")
    rates = [line["settings"]["learner.learning_rate"] for line in lines if line["phase"] == "generator"]
    assert rates == [2e-3, 4e-3, pytest.approx((4e-3 + 1e-3) / 2), 1e-3]
    for line in lines:
        assert line["settings"]["sampler.temperature"] == (0.8, 0.7)[line["round"] - 1]
    assert [line["trajectories"] for line in lines if line["phase"] == "policy"] == [6, 8]


@pytest.mark.parametrize("target", [go, go_setting])
def test_kills_change_no_bit(target, config, whole, tmp_path):
    unbroken = whole
    if target is go_setting:
        unbroken = tmp_path / "unbroken"
        assert done(target, config, unbroken) == 0 and bits_of(unbroken) != bits_of(whole)
        sizes = {line["settings"]["policy.group_size"] for line in untimed(unbroken / "metrics.jsonl")}
        assert sizes == {2, 3}
    ends = [done(target, config, tmp_path / "killed", operations) for operations in (60, 50, 55)]
    assert set(ends) <= {-signal.SIGKILL, 0} and ends.count(-signal.SIGKILL) > 1
    assert done(target, config, tmp_path / "killed") == 0
    assert bits_of(tmp_path / "killed") == bits_of(unbroken)


def test_two_ranks_take_the_steps_of_one(config, whole, tmp_path):
    (tmp_path / "recipe.toml").write_text(to_toml(config))
    arguments = "train", "--recipe", tmp_path / "recipe.toml", "--out", tmp_path / "run"
    assert exit_codes(ranks_of(2, command, tmp_path, *arguments), PATIENCE_S) == [0, 0]
    alone, both = untimed(whole / "metrics.jsonl"), untimed(tmp_path / "run" / "metrics.jsonl")
    for line, other in zip(alone, both, strict=True):
        assert line["settings"] == other["settings"] and line["trajectories"] == other["trajectories"]
        assert (line["reward"], line["grad_norm"]) == pytest.approx((other["reward"], other["grad_norm"]), rel=1e-3)
