"""Which trajectories are learned from, and their advantages."""

import pytest
import torch

from aslfast.config.schema import AdvantageConfig, LossConfig
from aslfast.core import Group, Reward
from aslfast.learner.advantage import lesson
from tests.support.token_streams import silent, trajectory


def rewarded(*values):
    trajectories = [trajectory(5, seed) for seed in range(len(values))]
    return Group(tuple(trajectories), tuple(Reward({"judge": value}) for value in values))


def advantages(groups, config):
    found = lesson(groups, config, LossConfig())
    return found.trajectories, [signal.advantage for signal in found.signals]


def test_trajectories_of_no_signal_are_left_out():
    mute = silent(2, 0)
    group = rewarded(1.0, 0.0)
    groups = [Group((*group.trajectories, mute), (*group.rewards, Reward({"judge": 0.0}))), rewarded(1.0, 1.0)]
    kept, advantage = advantages(groups, AdvantageConfig())
    assert kept == list(group.trajectories)
    assert advantage == pytest.approx([2**0.5, -(0.5**0.5)], rel=1e-5)  # (r - 1/3) / sqrt(2/9), the silent one counted
    kept, advantage = advantages(groups, AdvantageConfig(drop_zero_variance=False))
    assert kept == [*group.trajectories, *groups[1].trajectories] and advantage[2:] == [0.0, 0.0]


def test_a_middling_reward_in_a_group_that_differs_is_kept():
    """Its advantage is 0, but it counts in the mean over tokens: only zero-variance groups are dropped."""
    kept, advantage = advantages([rewarded(0.0, 0.5, 1.0)], AdvantageConfig())
    assert len(kept) == 3 and advantage[1] == 0.0


def test_whitened_advantages():
    """Minus the group's mean, then mean 0 and std 1 over the batch: not the std of the rewards."""
    groups = [rewarded(1.0, 0.0, 0.0, 1.0), rewarded(5.0, 5.0), rewarded(0.0, 3.0)]
    _, advantage = advantages(groups, AdvantageConfig(scale="whitened", drop_zero_variance=False))
    centred = torch.tensor([0.5, -0.5, -0.5, 0.5, 0.0, 0.0, -1.5, 1.5], dtype=torch.float64)
    assert advantage == pytest.approx((centred / centred.std(correction=0)).tolist(), rel=1e-5)
    _, plain = advantages(groups, AdvantageConfig("none", "whitened", drop_zero_variance=False))
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 0.0, 3.0], dtype=torch.float64)
    assert plain == pytest.approx(((rewards - rewards.mean()) / rewards.std(correction=0)).tolist(), rel=1e-5)
