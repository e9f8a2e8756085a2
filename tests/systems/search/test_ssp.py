"""SSP: the proposer's reward against hand-made shares, its validity rules, the pool, and one round in the lab."""

import pytest

from aslfast.config import load_recipe
from aslfast.core import Group, Reward
from aslfast.systems.search import ssp
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.turns import act, said, search, seen

SMALL = [
    "own_phase.SearchSelfPlay.tasks_per_step=8", "own_phase.SearchSelfPlay.group_size=1", "sampler.max_turns=4",
    "own_phase.SearchSelfPlay.options.most_hops=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return play_small("ssp-tiny", tmp_path_factory.mktemp("ssp") / "run", SMALL)


@pytest.mark.parametrize(("right", "reward"), [([0, 0, 0, 0, 0], 1.0), ([1, 1, 0, 0, 0], 0.6), ([1] * 5, 0.0)])
def test_a_proposal_earns_the_share_of_tries_that_fail(right, reward):
    assert ssp.difficulty(right) == pytest.approx(reward)


TEN_WORDS = "Which long river flows past the old town hall there?"


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        (TEN_WORDS, True),
        ("Which long river flows past the old town hall?", False),  # nine words
        (f"{TEN_WORDS} The Aker?", False),  # holds its answer
        (TEN_WORDS + "x" * 1000, False),
        (None, False),
    ],
)
def test_the_rules_on_the_text(text, sound):
    assert ssp.sound(act(role="generator", output=text), "Aker", 10) == sound


@pytest.mark.parametrize(
    ("turns", "enough"),
    [
        ([search("Oslo"), seen("Oslo lies there", "a"), search("Aker"), seen("x", "b"), said("done")], True),
        ([search("Oslo"), seen("Oslo lies there", "a"), said("done")], False),  # one search
        ([search("Oslo"), seen("x", "a"), search("the oslo"), seen("x", "a"), said("done")], False),  # sent twice
        ([search("Oslo"), seen("nothing found"), search("Aker"), seen("nothing found"), said("done")], False),
    ],
)
def test_the_rules_on_searches(turns, enough):
    assert ssp.searched(act(*turns), 2) == enough


def test_an_invalid_proposal_teaches_nothing_of_the_question_in_its_place():
    phase = ssp.SearchSelfPlay(load_recipe("ssp-tiny"), {})
    valid, invalid = act(role="generator", output="Which town?", answer="Oslo"), act(role="generator")
    tries = [act(output=said, references=("Oslo",)) for said in ("oslo", "Rome", None, "Oslo")]
    assert phase.rewards(None, [(valid, *tries), (invalid,)]) == [[{"difficulty": 0.5}, 1.0, 0.0, 0.0, 1.0], [0.0]]


def test_valid_questions_are_pooled_and_forgotten():
    config = load_recipe("ssp-tiny")
    phase = ssp.SearchSelfPlay(config, {**config.own_phase["SearchSelfPlay"].options, "reset_every": 2})
    asked = [act(role="generator", output=f"Which town {i}?", answer="Oslo") for i in range(2)]
    groups = [Group.of([(asked[0], Reward({"difficulty": 0.5})), (asked[1], Reward({"sound": 0.0}))])]
    phase.after_step(groups)
    (item,) = phase.state.pool.items.values()
    assert (item.question.text, item.question.references) == ("Which town 0?", ("Oslo",))
    phase.after_step(groups)
    assert phase.state.pool.items == {}


def test_one_round_in_the_lab(whole):
    proposals = [row for row in whole.rows if row["role"] == "generator"]
    tries = [row for row in whole.rows if row["role"] == "policy"]
    valid = [row for row in proposals if "difficulty" in row["reward_parts"]]
    assert len(proposals) == 16 and 0 < len(valid) < 16  # the gate lets some through, not all
    for row in valid:
        of_it = [one["reward"] for one in tries if one["question"] == row["output"] and one["step"] == row["step"]]
        assert len(of_it) >= 5 and row["reward"] == pytest.approx(1 - sum(of_it[:5]) / 5)
    assert {row["reward"] for row in proposals if row not in valid} == {0.0}
    failed = sum(sum(line.get("failed_checks", {}).values()) for line in whole.lines)
    assert failed == 16 - len(valid)


def test_invalid_slots_are_filled_from_the_pool(whole):
    tries = [row for row in whole.rows if row["role"] == "policy" and row["step"] == 2]
    now = {row["output"] for row in whole.rows if row["role"] == "generator" and row["step"] == 2}
    before = {row["output"] for row in whole.rows if row["role"] == "generator" and row["step"] == 1}
    refilled = {row["question"] for row in tries} - now
    assert refilled and refilled <= before
    pooled = [path[3] for path in whole.kept if path[:3] == ("SearchSelfPlay", "pool", "items")]
    assert pooled and whole.kept["SearchSelfPlay", "steps"] == 2


def test_the_solver_learns_before_the_proposer(whole):
    assert whole.moved == {"policy"}
    assert sum(line["left_out"] for line in whole.lines) == sum(row["role"] == "policy" for row in whole.rows)
    (version,) = (whole.run / "adapters" / "policy").iterdir()
    assert version.name == "v0004"  # two updates a step
    assert {row["adapter_version"] for row in whole.rows if row["step"] == 2} == {2}


def test_a_resume_changes_no_bit(whole, tmp_path):
    assert play_killed("ssp-tiny", tmp_path / "run", SMALL).same_as(whole)
