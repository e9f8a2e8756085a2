"""Which groups count, and what advantages are multiplied by."""

from dataclasses import replace

import pytest

from aslfast.config.learning import AdvantageConfig, LossConfig
from aslfast.config.own_parts import rescale_rule
from aslfast.core import Group, Reward, StopReason
from aslfast.errors import UserError
from aslfast.learner.advantage import lesson
from aslfast.learner.advantages.groups import factors, keep_groups
from tests.support.token_streams import silent, trajectory


def group(*rewards):
    return Group(tuple(trajectory(5, s) for s in range(len(rewards))), tuple(Reward({"r": r}) for r in rewards))


SAID = [("Oslo", StopReason.FINISHED), (None, StopReason.NO_OUTPUT), ("Bergen", StopReason.FINISHED)]
GROUPS = [group(1.0, 0.0), group(1.0, 1.0), group(0.6, 0.4), group(0.0, 3.0)]  # stds 0.5, 0, 0.1, 1.5


def test_the_groups_of_the_largest_std_stay_in_their_order():
    assert keep_groups(GROUPS, 1.0) == GROUPS
    assert keep_groups(GROUPS, 0.75) == [GROUPS[0], GROUPS[2], GROUPS[3]]
    assert keep_groups(GROUPS, 0.74) == [GROUPS[0], GROUPS[3]]  # int(2.96)
    assert keep_groups(GROUPS, 0.01) == [GROUPS[3]]
    assert keep_groups([Group((), (), (silent(3, 0),))], 0.5) == []


def test_usable_groups():
    """Three of four groups teach: 4/3; of advantages 1, -1 before."""
    config = AdvantageConfig(rescale="usable_groups")
    found = [s.advantage for s in lesson(GROUPS, config, LossConfig()).signals]
    assert found == pytest.approx([4 / 3, -4 / 3, 4 / 3, -4 / 3, -4 / 3, 4 / 3], rel=1e-4)
    assert factors([group(1.0, 1.0)], [0.0, 0.0], "usable_groups") == [1.0, 1.0]  # none teaches


def of_wrong_answers(advantages, rewards, groups):
    return [0.5 if reward == 0 else 1.0 + group for reward, group in zip(rewards, groups, strict=True)]


def of_short_outputs(advantages, rewards, groups, outputs):
    return [0.5 if len(output) < 5 else 2.0 for output in outputs]


def one_too_few(advantages, rewards, groups):
    return [1.0] * (len(advantages) - 1)


def no_list(advantages, rewards, groups):
    return 1.0


def test_a_rule_of_ones_own():
    config = AdvantageConfig(scale="none", rescale=f"{__name__}:of_wrong_answers")
    found = [s.advantage for s in lesson([GROUPS[0], GROUPS[3]], config, LossConfig()).signals]
    assert found == pytest.approx([0.5, -0.25, -0.75, 1.5 * 2])
    with pytest.raises(UserError, match=r"advantage.rescale: .*one_too_few returned 2 numbers for 3 advantages"):
        rescale_rule(f"{__name__}:one_too_few")
    with pytest.raises(UserError, match=r"advantage.rescale: .*no_list returned 1.0; it takes lists of advantages"):
        rescale_rule(f"{__name__}:no_list")


def test_a_rule_of_ones_own_that_reads_the_outputs():
    """The first says "Oslo", the second nothing, the third "Bergen"."""
    said = [replace(silent(1, place), output=output, stop=stop) for place, (output, stop) in enumerate(SAID)]
    assert factors([Group(tuple(said), (Reward(),) * 3)], [1.0] * 3, f"{__name__}:of_short_outputs") == [0.5, 0.5, 2.0]


def test_sft_takes_successes_and_nft_groups_with_both():
    middling = group(0.6, 0.4)
    groups = [GROUPS[0], GROUPS[1], middling, group(0.5, 0.2)]
    config = AdvantageConfig()
    sft = lesson(groups, config, LossConfig("sft"))
    assert sft.trajectories == [groups[0].trajectories[0], *groups[1].trajectories, middling.trajectories[0]]
    nft = lesson(groups, config, LossConfig("nft"))
    assert nft.trajectories == [*groups[0].trajectories, *middling.trajectories]
    assert [(s.success, s.rate) for s in nft.signals] == [(True, 0.5), (False, 0.5)] * 2
    better = lesson(groups, config, LossConfig("sft", success="advantage", success_above=0.0))
    assert better.trajectories == [g.trajectories[0] for g in (groups[0], middling, groups[3])]
