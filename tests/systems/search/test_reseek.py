"""ReSeek: each judgement's reward against numbers by hand, in the policy's own turns, and by acts in the lab."""

import pytest

from aslfast.systems.search import reseek
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.scripted import ELSEWHERE, PLACE, RIVER, call, play_scripted
from tests.support.systems.turns import act, said, search, seen

NAME = "own_phase.ReSeekByActs"
SMALL = [f"{NAME}.tasks_per_step=3", f"{NAME}.group_size=4", f"{NAME}.options.gamma=0.5"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return play_small("reseek-tiny", tmp_path_factory.mktemp("reseek") / "run", SMALL)


@pytest.mark.parametrize(
    ("accepts", "useful", "reward"),
    [(True, True, 0.3), (False, False, 0.3), (True, False, -0.6), (False, True, -0.3), (None, True, -0.6)],
)
def test_a_judgement(accepts, useful, reward):
    assert reseek.judgement_reward(accepts, useful) == reward


def judged(word, rest):
    return said(f"<think><judge>Yes</judge>?</think><judge>{word}</judge>{rest}")


def answered(*words, answer="Oslo", found=("cold", "Oslo is its capital")):
    """An act with two searches; the second finds the answer. words: its judgements."""
    first, second = words
    turns = [search("Norway"), seen(found[0]), judged(first, search("capital")[1]), seen(found[1])]
    return act(*turns, judged(second, f"<answer>{answer}</answer>"), output=answer, references=("Oslo",))


@pytest.mark.parametrize(
    ("words", "answer", "values", "end"),
    [
        (("No", "Yes"), "Oslo", (0.3, 0.15), 0.25),  # both right; gamma 1/2 a judgement
        (("yes", "Yes"), "Oslo", (-0.6, 0.15), 0.25),
        (("No", "No"), "Oslo", (0.3, -0.15), 0.0),  # it answers though it rejects
        (("Maybe", "Yes"), "Rome", (-0.6, 0.15), 0.0),  # no judgement, and a wrong answer
    ],
)
def test_judgements_and_answer(words, answer, values, end):
    given = reseek.rewarded(answered(*words, answer=answer), gamma=0.5)
    assert [(span.start, span.end) for span in given.spans] == [(6, 8), (10, 12)]  # their turns, two tokens each
    assert [span.reward for span in given.spans] == pytest.approx(values) and given.reward == {"answer": end}


def test_judgements_in_turns_have_their_own_advantages(make_context):
    def script(prompt, seed):
        second = "No" if seed % 2 else "Yes"
        turns = ["<judge>No</judge>" + call(PLACE), f"<judge>{second}</judge><answer>{RIVER}</answer>"]
        return [call(ELSEWHERE), *turns]

    options = ['roles.policy.prompt="answer: {question}"', "own_phase.ReSeek.options.gamma=1.0"]
    rows, line, _ = play_scripted(make_context, "aslfast.systems.search.reseek:ReSeek", script, *options, plays=6)
    found = {tuple((span.name, span.reward) for span in row["spans"]): row["reward"] for row in rows}
    assert found == {
        (("judge", 0.3), ("judge", 0.3)): 1.0,
        (("judge", 0.3), ("judge", -0.3)): 0.0,  # what was found is of use, and it answers after rejecting it
    }
    assert line["grad_norm"] > 0 and line["trajectories"] == 6


def test_one_round_by_acts(whole):
    assert whole.moved >= {"policy"}
    verdicts = [row for row in whole.rows if row["role"] == "grm"]
    attempts = [row for row in whole.rows if row["role"] == "policy"]
    assert len(verdicts) == len(attempts) > 24  # some tried again
    assert all(len(row["spans"]) == 1 for row in verdicts) and not any(row["spans"] for row in attempts)
    assert {line["phase"] for line in whole.lines} == {"ReSeekByActs"}


def test_a_rejected_answer_is_tried_again_and_an_accepted_one_is_not(whole):
    plays = {}
    for row in whole.rows:  # in the order of the acts: policy1, grm2, policy3, ...
        name, _, number = row["task_id"].rpartition(".")
        plays.setdefault((row["step"], name, row["role"]), []).append((number, row))
    assert {number for rows in plays.values() for number, _ in rows} >= {"policy1", "grm2", "policy3", "grm4"}
    tried = sum(number == "policy3" for rows in plays.values() for number, _ in rows)
    rejected = sum(number == "grm2" and row["output"] != "correct" for rows in plays.values() for number, row in rows)
    assert tried == rejected > 0


def test_a_judgement_by_acts_is_worth_what_it_says(whole):
    firsts = [row for row in whole.rows if row["task_id"].endswith(".grm2")]
    assert {span.reward for row in firsts for span in row["spans"]} <= {0.3, -0.6, -0.3}
    thirds = [row for row in whole.rows if row["task_id"].endswith(".grm4")]
    assert {span.reward for row in thirds for span in row["spans"]} <= {0.15, -0.3, -0.15}
    assert {row["reward"] for row in whole.rows} <= {0.0, 0.5, 0.25, 0.125}


def test_a_resume_changes_no_bit(whole, tmp_path):
    assert play_killed("reseek-tiny", tmp_path / "run", SMALL).same_as(whole)
