"""Baselines over steps: the moving mean of a key, and the median of the last groups' means; and their state."""

import json

import pytest

from aslfast.checkpoint.state import TrainState, apply_changes, changes, snapshot, state_from_data
from aslfast.config.learning import AdvantageConfig, LossConfig
from aslfast.core import Group, Reward
from aslfast.learner.advantage import lesson
from aslfast.learner.advantages.baselines import Rewards, fifo_medians, moving_means
from tests.support.token_streams import trajectory


def group(*rewards):
    return Group(tuple(trajectory(5, s) for s in range(len(rewards))), tuple(Reward({"r": r}) for r in rewards))


def test_the_moving_mean_is_used_before_it_is_updated():
    """decay 0.9 from 0: 1 is compared with 0, then 0 with 0.1, then 1 with 0.09; the other key starts at 0 itself."""
    found, after = moving_means(Rewards([1.0, 0.0, -1.0, 1.0], ["a", "a", "b", "a"], [0, 0, 1, 2]), 0.9, {})
    assert found == pytest.approx([0.0, 0.1, 0.0, 0.09])
    assert after == {"a": pytest.approx((0.9 * 0.09 + 0.1,)), "b": pytest.approx((-0.1,))}
    found, _ = moving_means(Rewards([5.0], ["a"], [0]), 0.9, after)
    assert found == pytest.approx([0.9 * 0.09 + 0.1])


def test_the_median_is_of_the_last_groups_means():
    """Means 0.5, 1 and 0, this step's among them; then 3 pushes the first out of three."""
    found, after = fifo_medians(Rewards([1.0, 0.0, 1.0, 0.0], ["a"] * 4, [0, 0, 1, 2]), 3, {})
    assert after == {"a": (0.5, 1.0, 0.0)} and found == [0.5] * 4
    found, after = fifo_medians(Rewards([3.0], ["a"], [0]), 3, after)
    assert after == {"a": (1.0, 0.0, 3.0)} and found == [1.0]
    found, _ = fifo_medians(Rewards([2.0], ["a"], [0]), 4, after)
    assert found == [1.5]  # of 1, 0, 3 and 2


SPIRAL = AdvantageConfig("moving", "none", group_by="player")


def test_a_step_goes_on_from_the_one_before():
    """SPIRAL's numbers: A = r - b before the update, decay 0.95; an advantage of exactly 0 is left out."""
    first = lesson([group(1.0, -1.0)], SPIRAL, LossConfig())
    assert [s.advantage for s in first.signals] == pytest.approx([1.0, -1.0 - 0.05])
    mean = 0.95 * 0.05 - 0.05
    second = lesson([group(1.0), group(mean)], SPIRAL, LossConfig(), first.history)
    assert dict(first.history) == {"policy/policy": pytest.approx((mean,))}
    after = 0.95 * mean + 0.05
    assert [s.advantage for s in second.signals] == pytest.approx([1.0 - mean, mean - after])
    none = lesson([group(0.0)], SPIRAL, LossConfig())
    assert none.trajectories == [] and dict(none.history) == {"policy/policy": (0.0,)}


@pytest.mark.parametrize("config", [SPIRAL, AdvantageConfig("fifo_median", "none", group_by="batch", history=3)])
def test_a_resumed_run_has_the_same_baselines(config):
    """Through the ledger's JSON, change by change, to the bit."""
    state, data = TrainState(), {}
    for rewards in ((1.0, 0.3), (0.1, 0.7), (0.123456789, 0.2)):
        before = snapshot(state)
        state.baselines = dict(lesson([group(*rewards)], config, LossConfig(), state.baselines).history)
        apply_changes(data, json.loads(json.dumps(changes(before, state))))
    assert state_from_data(data).baselines == state.baselines
    resumed = lesson([group(0.4)], config, LossConfig(), state_from_data(data).baselines)
    whole = lesson([group(0.4)], config, LossConfig(), state.baselines)
    assert [s.advantage for s in resumed.signals] == [s.advantage for s in whole.signals] != [0.4]


def test_scales_under_a_moving_mean_are_those_of_what_is_left():
    """r - b is 1, -1.05 with decay 0.95: their std, not that of the rewards; whitened takes the mean off too."""
    for scale, mean in (("group", 0.0), ("batch", 0.0), ("whitened", -0.025)):
        found = lesson([group(1.0, -1.0)], AdvantageConfig("moving", scale, group_by="role"), LossConfig())
        wanted = [(1.0 - mean) / 1.025, (-1.05 - mean) / 1.025]
        assert [s.advantage for s in found.signals] == pytest.approx(wanted, rel=1e-5), scale
