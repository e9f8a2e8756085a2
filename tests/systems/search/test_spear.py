"""SPEAR: its schedules, rewards and replays against numbers by hand, what it drops, and a round with extra batches."""

import pytest

from aslfast.config import load_recipe
from aslfast.core import Group, Reward, StopReason
from aslfast.learner.advantage import lesson
from aslfast.pool import Kept
from aslfast.systems.search import spear
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.turns import act, said, search, seen

OPTIONS = {"bonus_steps": 2, "imitation_steps": 2, "buffer": 3, "max_age": 10, "history": 4}
SMALL = ["own_phase.Spear.steps=4", *(f"own_phase.Spear.options.{key}={value}" for key, value in OPTIONS.items())]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return play_small("spear-tiny", tmp_path_factory.mktemp("spear") / "run", SMALL)


@pytest.mark.parametrize(
    ("step", "bonus", "imitation"),
    [
        (0, 1.0, 0.0),
        (25, 0.853553, 0.146447),
        (50, 0.5, 0.5),
        (75, 0.146447, 0.853553),
        (100, 0.0, 1.0),
        (400, 0.0, 1.0),
    ],
)
def test_the_schedules(step, bonus, imitation):
    assert spear.bonus_weight(step, 100) == pytest.approx(bonus, abs=1e-6)
    assert spear.imitation_weight(step, 100) == pytest.approx(imitation, abs=1e-6)


@pytest.mark.parametrize(("calls", "bonus"), [(0, 0.0), (3, 0.3), (10, 1.0), (14, 1.0)])
def test_the_tool_bonus(calls, bonus):
    assert spear.tool_bonus(calls) == pytest.approx(bonus)


ONE = search("Oslo"), seen("x", "a")


@pytest.mark.parametrize(
    ("turns", "options", "kept"),
    [
        ((*ONE, said("done")), {"output": "Oslo"}, True),
        ((*ONE, said("done")), {}, True),  # no output, but it searched
        ((said("well"),), {}, False),  # void
        ((*ONE, said("on and on")), {"stop": StopReason.TURN_TOO_LONG}, False),
        ((*ONE, *ONE, *ONE), {}, False),  # repetitive: three searches, one query
        ((*ONE, *ONE, said("done")), {"output": "Oslo"}, True),
        ((*ONE, said("done \ufffd")), {"output": "Oslo"}, False),
    ],
)
def test_what_is_dropped(turns, options, kept):
    assert spear.worth_learning(act(*turns, **options)) == kept


def test_what_is_imitated_and_how_much():
    kept = [Kept(act(said(text)), Reward({"r": r}), 1) for text, r in (("a", 1.0), ("b", 0.4), ("c", 0.2))]
    ((imitated, reward),) = spear.imitated(kept, median=0.4, weight=0.5)
    assert reward.total == pytest.approx(0.3) and imitated.task.role == "imitator"
    assert imitated.logprobs == kept[0].trajectory.logprobs


def test_the_imitators_rewards_are_its_advantages():
    config = load_recipe("spear")
    group = Group.of([(act(said(f"{r}"), role="imitator"), Reward({"r": r})) for r in (0.3, 0.1)])
    taught = lesson([group], config.advantage_of("imitator"), config.loss_of("policy"))
    assert [signal.advantage for signal in taught.signals] == pytest.approx([0.3, 0.1])


def test_the_policys_advantages_are_not_divided_by_the_std():
    config = load_recipe("spear")
    rewards = [(1.0, 0.0), (0.2, 0.0), (0.6, 0.0), (0.1, 0.0)]  # the last is not among the three quarters
    groups = [Group.of([(act(said(f"{r}")), Reward({"r": r})) for r in pair]) for pair in rewards]
    taught = lesson(groups, config.advantage_of("policy"), config.loss)
    assert [s.advantage for s in taught.signals] == pytest.approx([0.5, -0.5, 0.1, -0.1, 0.3, -0.3])


def test_one_round_in_the_lab(whole):
    batches, steps = whole.kept["Spear", "batches"], whole.kept["Spear", "steps"]
    assert steps == 4 and 0 < batches <= 3  # the first step's weight is 0
    (version,) = (whole.run / "adapters" / "policy").iterdir()
    assert whole.moved == {"policy"} and int(version.name[1:]) == steps + batches
    assert sum(path[:2] == ("Spear", "means") for path in whole.kept) == 4  # of 12 groups


def test_the_bonus_fades(whole):
    for step, weight in ((1, 1.0), (2, 0.5), (3, 0.0)):
        rows = [row for row in whole.rows if row["step"] == step and row["reward"] is not None]
        for row in rows:
            calls = row["conversation"].count("=== tool ===")
            assert row["reward_parts"]["tools"] == pytest.approx(weight * 0.1 * calls, abs=1e-9)
        assert any("=== tool ===" in row["conversation"] for row in rows)


def test_a_resume_changes_no_bit(whole, tmp_path):
    assert play_killed("spear-tiny", tmp_path / "run", SMALL).same_as(whole)
