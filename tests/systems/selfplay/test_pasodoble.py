"""PasoDoble: difficulty and novelty by hand, what is ill-formed, and both players in the lab, at once and in turn."""

import pytest

from aslfast.config import load_recipe
from aslfast.systems.selfplay.pasodoble import PasoDoble, novelty, proposer_reward, teaches, well_formed
from tests.support.systems.acts import act
from tests.support.systems.played import play_killed, play_small

SMALL = ("own_phase.PasoDoble.tasks_per_step=3", "own_phase.PasoDoble.group_size=3",
         "own_phase.PasoDoble.options.answers=4")  # fmt: skip
IN_TURN = (*SMALL, "own_phase.PasoDoble.steps=3", "own_phase.PasoDoble.options.proposer_steps=2",
           "own_phase.PasoDoble.options.solver_steps=1")  # fmt: skip


@pytest.mark.parametrize(
    ("p", "div", "reward"),
    [(0.5, 1.0, 0.8), (1.0, 0.5, 0.2), (0.25, 0.31, 0.912), (0.2, 1.0, 0.0), (0.5, 0.3, 0.0), (0.0, 1.0, 0.0)],
)
def test_the_proposer_is_paid_for_difficulty_and_novelty(p, div, reward):
    assert proposer_reward(p, div) == pytest.approx(reward)


def test_novelty_is_the_share_of_earlier_questions_that_are_not_alike():
    asked = "which town lies on river aker"  # five words without the articles' like
    history = [
        "Which town lies on the river Aker?",  # the same words: alike
        "which town lies on river aker today",  # 6 of 7 shared: 0.857, alike
        "which town lies on river elbe",  # 5 of 7: 0.714
        "who wrote Faust?",
    ]
    assert novelty(asked, history) == 0.5 and novelty(asked, []) == 1.0
    assert novelty("a b1 c d e", ["b1 c d e f"]) == 1.0  # 4 of 5 words are 0.8: still new ("a" is an article)


@pytest.mark.parametrize(
    ("question", "answer", "valid"),
    [
        ("Where was Mira born?", "Oslo", True),
        ("Was Mira born in Oslo?", "oslo", False),  # the answer is in the question
        ("Oslo", "It is Oslo", False),  # and the other way round
        (None, None, False),
        ("Where was Mira born?", None, False),
    ],
)
def test_what_is_ill_formed(question, answer, valid):
    assert well_formed(act("generator", question, answer)) == valid


def test_a_passage_teaches_where_a_question_is_neither_too_hard_nor_too_easy():
    assert [teaches(rates) for rates in ([0.2, 1.0], [0.0, 0.3], [], [0.99])] == [False, True, False, True]


def made():
    config = load_recipe("pasodoble-tiny")
    return PasoDoble(config, config.own_phase["PasoDoble"].options)


def play_of(*answers):
    return (act("generator", "Where was Mira born?", "Oslo"),
            *(act("policy", said, references=["Oslo"]) for said in answers))  # fmt: skip


def test_rewards_of_a_passage():
    rewards = made().rewards(None, [play_of("Oslo", "Bergen"), play_of("Oslo", "oslo")])
    assert rewards[0] == [pytest.approx(1.1 - 0.5 + 0.2), 1.0, 0.0]
    assert rewards[1] == [pytest.approx(1.1 - 1.0 + 0.2), 1.0, 1.0]
    assert made().rewards(None, [play_of("Oslo", "oslo")]) == [[None, None, None]]  # p = 1 alone: nobody learns


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play_small("pasodoble-tiny", tmp_path_factory.mktemp("pasodoble") / "run", SMALL)


def test_both_players_learn(played):
    assert played.moved == {"generator", "policy"}
    for line in played.lines:
        assert line["grad_norm"] > 0 and "policy" in line["other_updates"]
    answers = [row for row in played.rows if row["role"] == "policy" and row["reward"] is not None]
    written = {row["output"] for row in played.rows if row["role"] == "generator"}
    assert answers and {row["question"] for row in answers} <= written
    for row in answers:
        assert (row["output"] in row["references"]) == (row["reward"] == 1.0)


def test_the_questions_are_remembered_and_a_repeated_one_is_worth_less(played):
    history = played.kept["PasoDoble", "history"]
    written = [row["output"] for row in played.rows if row["role"] == "generator" and row["output"]]
    assert sorted(history) == sorted(written) and played.kept["PasoDoble", "buffer"] == []


def test_the_players_take_turns_with_a_buffer(tmp_path_factory):
    run = play_small("pasodoble-tiny", tmp_path_factory.mktemp("turns") / "run", IN_TURN)
    first, second, third = run.lines
    assert first["left_out"] > 0 and second["left_out"] > 0 and third["left_out"] == 0
    assert "other_updates" not in first and set(third["roles"]) == {"policy"} and third["grad_norm"] > 0
    buffered = {item["text"] for item in run.kept["PasoDoble", "buffer"]}
    solved = {row["question"] for row in run.rows if row["step"] == 3}
    assert solved and solved <= buffered and {row["role"] for row in run.rows if row["step"] == 3} == {"policy"}


def test_a_resume_gives_the_same_bits(tmp_path):
    whole = play_small("pasodoble-tiny", tmp_path / "whole", IN_TURN)
    assert play_killed("pasodoble-tiny", tmp_path / "killed", IN_TURN).same_as(whole)
