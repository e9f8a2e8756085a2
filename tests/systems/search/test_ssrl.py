"""SSRL: its reward against numbers by hand, what is malformed, and one round in which the policy answers itself."""

import pytest

from aslfast.rewards import AnswerEvidence
from aslfast.systems.search import ssrl
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.turns import act, said, search, seen

SMALL = ["policy.steps=2", "policy.prompts_per_step=3", "policy.group_size=4"]
ANSWER = said("<think>it says so</think><answer>Oslo</answer>")
GOOD = search("capital of Norway"), seen("Oslo is its capital"), ANSWER


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return play_small("ssrl-tiny", tmp_path_factory.mktemp("ssrl") / "run", SMALL)


@pytest.mark.parametrize(
    ("thoughts", "searches", "expected"),
    [(2, 1, 1.0), (1, 0, 0.5), (3, 1, 2 / 3), (1, 2, 1 / 6), (4, 3, 1.0), (2, 3, 0.5), (0, 0, 0.0)],
)
def test_thoughts_and_searches_in_balance(thoughts, searches, expected):
    assert ssrl.balance(thoughts, searches) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("turns", "answer", "expected"),
    [
        (GOOD, "Oslo", 1.0),
        (GOOD, "Rome", 0.1),
        (GOOD, None, 0.0),
        ((ANSWER,), "Oslo", 0.95),  # one thought, no search: F is a half
        ((search("capital", thought=""), *GOOD[1:]), "Oslo", 0.9),  # an empty thought
        ((search("capital", thought="..."), *GOOD[1:]), "Oslo", 0.9),  # a placeholder
        ((search("capital\\nof Norway"), *GOOD[1:]), "Oslo", 0.9),  # a query over a line
        ((said("Well. <think>so</think>"), *GOOD[1:]), "Oslo", 0.9),  # does not begin with a thought
        ((*GOOD[:2], said("<think>so</think><plan>x</plan><answer>Oslo</answer>")), "Oslo", 0.9),  # another tag
        ((*GOOD[:2], said("<think>so</think>" * 8 + "<answer>Oslo</answer>")), "Oslo", 0.9),  # nine thoughts
    ],
)
def test_the_reward(turns, answer, expected):
    evidence = AnswerEvidence(answer, (), ("Oslo",), "Which town?", act(*turns, output=answer))
    assert ssrl.reward(evidence) == pytest.approx(expected)


def test_one_round_searches_in_itself(whole):
    assert whole.moved == {"policy"} and len(whole.rows) == 24
    assert any("=== tool ===" in row["conversation"] for row in whole.rows)
    assert not any(any(row["passages"] or ()) for row in whole.rows)  # none is the index's
    said_alone = sum(sum(row["loss_mask"]) for row in whole.rows)
    assert sum(line["sampled_tokens"] for line in whole.lines) > said_alone  # its passages count, and are not learnt


def test_its_passages_carry_no_loss(whole):
    for row in whole.rows:
        sampled = row["conversation"].count("=== model ===")
        starts = [now > before for before, now in zip([0, *row["loss_mask"]], row["loss_mask"], strict=False)]
        assert sum(starts) == sampled and 0 < sum(row["loss_mask"]) < len(row["token_ids"])


def test_a_resume_changes_no_bit(whole, tmp_path):
    assert play_killed("ssrl-tiny", tmp_path / "run", SMALL).same_as(whole)
