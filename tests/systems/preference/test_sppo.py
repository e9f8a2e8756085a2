"""SPPO: the numbers that log-ratios regress on, which answers are learnt from, and a round in the lab."""

import pytest

from aslfast.config import load_recipe
from aslfast.core import Group, Reward
from aslfast.learner.advantage import lesson
from aslfast.systems.preference.sppo import best_and_worst, target
from tests.support.systems.acts import act
from tests.support.systems.played import play_killed, play_small

SMALL = ("own_phase.SPPO.tasks_per_step=3", "own_phase.SPPO.group_size=1")


@pytest.mark.parametrize(("rate", "nats"), [(1.0, 50.0), (0.75, 25.0), (0.5, 0.0), (0.0, -50.0)])
def test_the_target_by_hand(rate, nats):
    assert target(rate, beta=0.01) == pytest.approx(nats)


def group(*rewards):
    acts = tuple(act("policy", f"answer {i}") for i in range(len(rewards)))
    return Group(acts, tuple(Reward({"r": reward}) for reward in rewards))


def test_the_best_and_the_worst_are_learnt_from():
    pair = best_and_worst(group(0.0, 25.0, -50.0, 25.0))
    assert [one.output for one in pair.trajectories] == ["answer 1", "answer 2"]
    assert [reward.total for reward in pair.rewards] == [25.0, -50.0]
    assert best_and_worst(group(0.0, 0.0)) is None


@pytest.mark.parametrize("name", ["sppo", "sppo-tiny"])
def test_the_loss_reads_the_target_as_it_is(name):
    config = load_recipe(name)
    assert (config.loss.kind, config.loss.aggregate, config.loss.kl_coef) == ("squared", "sequence_mean", 0.0)
    taught = lesson([group(25.0, -50.0)], config.advantage_of("policy"), config.loss_of("policy"))
    assert [signal.advantage for signal in taught.signals] == [25.0, -50.0]


def test_a_round_in_the_lab(tmp_path):
    whole = play_small("sppo-tiny", tmp_path / "whole", SMALL)
    assert whole.moved == {"policy"} and {line["left_out"] % 2 for line in whole.lines} == {0}
    assert any(line["left_out"] for line in whole.lines)
    assert {row["adapter_version"] for row in whole.rows} == {0, 2}  # two epochs a step
    sixths = [6 * (0.01 * row["reward"] + 0.5) for row in whole.rows]  # shares of 3 others, halves for draws
    assert sixths == pytest.approx([round(value) for value in sixths]) and len(set(sixths)) > 2
    assert play_killed("sppo-tiny", tmp_path / "killed", SMALL).same_as(whole)
