"""Which rewards are compared: by prompt, hops, role, player, step, or a function of one's own."""

from dataclasses import replace

import pytest

from aslfast.config.learning import GROUP_KEYS, AdvantageConfig, LossConfig
from aslfast.config.own_parts import group_key
from aslfast.core import Group, Reward, Task
from aslfast.errors import UserError
from aslfast.learner.advantage import lesson
from aslfast.learner.advantages.keys import KEYS, keys_of
from tests.support.token_streams import trajectory


def group(*rewards, hops=0, task=None):
    made = [replace(t := trajectory(5, seed), task=replace(task or t.task, hops=hops)) for seed in range(len(rewards))]
    return Group(tuple(made), tuple(Reward({"judge": r}) for r in rewards))


def advantages(groups, **settings):
    config = AdvantageConfig(**{"drop_zero_variance": False, **settings})
    return [signal.advantage for signal in lesson(groups, config, LossConfig()).signals]


def test_every_name_has_a_key():
    assert tuple(KEYS) == GROUP_KEYS


def test_hops_across_prompts():
    """One sample a prompt: hop 1 has rewards 1 and 0, hop 2 has 0.5 alone: 0, or its raw reward as HRPO's code has."""
    groups = [group(1.0, hops=1), group(0.5, hops=2), group(0.0, hops=1)]
    assert advantages(groups) == [0.0, 0.0, 0.0]
    assert advantages(groups, group_by="hops") == pytest.approx([1.0, 0.0, -1.0], rel=1e-5)
    assert advantages(groups, group_by="hops", singleton="reward") == pytest.approx([1.0, 0.5, -1.0], rel=1e-5)
    assert advantages(groups, group_by="hops", scale="none") == pytest.approx([0.5, 0.0, -0.5])


def test_the_whole_step():
    """Rewards 1, 0, 0.5 with mean 0.5."""
    groups = [group(1.0, hops=1), group(0.0, hops=2), group(0.5, hops=3)]
    for key in ("batch", "role", "player"):
        assert advantages(groups, group_by=key, scale="none") == pytest.approx([0.5, -0.5, 0.0])
    assert advantages(groups, group_by="batch", baseline="leave_one_out", scale="none") == pytest.approx(
        [1.0 - 0.25, 0.0 - 0.75, 0.5 - 0.5]
    )


def test_two_judges_are_two_roles():
    judges = [group(1.0, 0.0, task=Task("a", "grm", "p", fold=1)), group(1.0, 1.0, task=Task("b", "second_judge", "p"))]
    assert keys_of(judges, "role") == keys_of(judges, "player")
    assert keys_of(judges, "player") == ["grm/grm", "grm/grm", "second_judge/second_judge", "second_judge/second_judge"]


def test_no_baseline_is_the_reward():
    assert advantages([group(1.0, 0.25), group(-0.5)], baseline="none", scale="none") == [1.0, 0.25, -0.5]


def test_under_another_key_those_of_advantage_0_are_left_out():
    groups = [group(1.0, hops=1), group(0.0, hops=1), group(0.7, hops=2)]
    found = lesson(groups, AdvantageConfig(group_by="hops"), LossConfig())
    assert found.trajectories == [groups[0].trajectories[0], groups[1].trajectories[0]]


def by_first_letter(task):
    return task.prompt[:1]


def no_text(task):
    return 3


def test_a_key_of_ones_own():
    path = f"{__name__}:by_first_letter"
    assert group_key(path)(Task("x", "policy", "Who?")) == "W"
    with pytest.raises(UserError, match=r"advantage.group_by: .*:no_text returned 3; it takes one aslfast.core.Task"):
        group_key(f"{__name__}:no_text")
