"""SAGE: what a skill is and when it is used, rewards of a chain, and a round in the lab."""

import pytest

from aslfast.config import load_recipe
from aslfast.core import Question, Task
from aslfast.systems.improve.sage import SAGE, likeness, skill_of, uses
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.turns import act, search, seen

SMALL = ("own_phase.SAGE.group_size=4",)


@pytest.mark.parametrize(
    ("query", "skill", "used"),
    [
        ("river of Larvik", "river of ...", True), ("The river of Larvik", "river of ...", True),
        ("river of", "river of ...", False), ("town of Larvik", "river of ...", False),
        ("river of Larvik", "river of Larvik", False), ("river of Larvik", "...", False),
        ("who built Fram", "who built ...", True), ("Fram built by whom", "... built by ...", True),
    ],
)  # fmt: skip
def test_a_skill_is_used_where_its_words_are_there_and_its_gap_is_filled(query, skill, used):
    assert uses(query, skill) == used


def test_a_query_becomes_a_skill_of_what_both_questions_share():
    assert skill_of("river of Mira Sund", "what is the river of Larvik?") == "river of ..."
    assert skill_of("Mira", "what is the river of Larvik?") == "..."


def test_likeness_by_hand():
    assert likeness("who built the Fram", "who built the big Maud") == 2 / 5  # who, built of 5; articles do not count


def phase(recipe="sage-tiny", questions=()):
    config = load_recipe(recipe)
    made = SAGE(config, config.own_phase["SAGE"].options)
    made.questions = questions
    return made


def chain(first_right, second_right, query="river of Larvik"):
    first = act(search("river of Mira"), seen("found"), output="Elbe" if first_right else "Oder", references=("Elbe",))
    second = act(search(query), seen("found"), output="Aker" if second_right else "Oder", references=("Aker",),
                 question="what is the river of Larvik?")  # fmt: skip
    return first, second


@pytest.mark.parametrize(
    ("right", "query", "rewards"),
    [
        ((1, 1), "river of Larvik", (1.5, 1.5)), ((0, 1), "river of Larvik", (0.5, 1.5)),
        ((1, 0), "river of Larvik", (1.0, 0.0)), ((1, 1), "Larvik", (1.0, 1.0)),
    ],
)  # fmt: skip
def test_rewards_of_a_chain_by_hand(right, query, rewards):
    """r = m + 0.5 where the skill "river of ..." was used and the second answer is right."""
    (found,) = phase().rewards(None, [chain(*right, query)])
    assert tuple(sum(parts.values()) for parts in found) == rewards


def test_a_written_skill_counts_in_the_long_recipe():
    first = act(search("river of Mira"), seen("found"), role="first", output="river of ...", answer="Elbe",
                references=("Elbe",))  # fmt: skip
    ((one, two),) = phase("sage").rewards(None, [(first, chain(0, 1)[1])])
    assert (one, two) == ({"right": 1.0, "skill": 0.5}, {"right": 1.0, "skill": 0.5})


def test_the_second_question_is_the_most_like_the_first():
    asked = [Question(name, text) for name, text in
             [("a", "who built the Fram?"), ("b", "who built the Maud?"), ("c", "where is Larvik?")]]  # fmt: skip
    assert phase(questions=asked)._like(Task("t", "first", "", "Who built the Gjoa?")).id == "a"
    assert phase(questions=asked)._like(Task("t", "first", "", "who built the Fram?")).id == "b"
    assert phase(questions=asked[:1])._like(Task("t", "first", "", "who built the Fram?")).text == asked[0].text


def test_a_round_in_the_lab(tmp_path):
    whole = play_small("sage-tiny", tmp_path / "whole", SMALL)
    assert whole.moved == {"policy"}
    of = {role: [row for row in whole.rows if row["role"] == role] for role in ("first", "policy")}
    assert len(of["first"]) == len(of["policy"]) == 24
    assert {row["reward_parts"]["skill"] for row in of["policy"]} == {0.0, 0.5}
    for row in of["policy"]:
        assert row["reward_parts"]["right"] == 1.0 or row["reward_parts"]["skill"] == 0.0
    assert play_killed("sage-tiny", tmp_path / "killed", SMALL).same_as(whole)
