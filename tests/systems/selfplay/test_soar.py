"""SOAR: what answers, sets and students are worth, and in the lab a teacher whose students become the policy."""

from dataclasses import replace

import pytest

from aslfast.config import load_recipe
from aslfast.core import Group, Reward, Turn
from aslfast.errors import UserError
from aslfast.learner.advantage import lesson
from aslfast.systems.selfplay.soar import SOAR, median_student, set_reward, student_reward
from tests.support.systems.acts import act
from tests.support.systems.played import play_killed, play_small

SMALL = (
    "own_phase.SOAR.steps=3", "own_phase.SOAR.tasks_per_step=2", "own_phase.SOAR.group_size=2",
    "data.labelled_count=16",
    "own_phase.SOAR.options.hard_tries=2", "own_phase.SOAR.options.asked=8", "own_phase.SOAR.options.inner_steps=3",
    "own_phase.SOAR.options.batch=2", "learner.learning_rate=1e-2", "own_phase.SOAR.options.answers=4",
    "own_phase.SOAR.options.promote_above=-2",
)  # fmt: skip


def said(text, output):
    return replace(act("student_1", output, references=["Oslo"]), turns=(Turn("sampled", 0, 2, text),))


@pytest.mark.parametrize(
    ("text", "output", "reward"),
    [
        ("<answer>Oslo</answer>", "Oslo", 120.0),
        ("Oslo, or <answer>Bergen</answer>", "Bergen", 20.0),
        ("It may be Oslo.", None, 20.0),
        ("<answer>Bergen</answer>", "Bergen", 10.0),
        ("No idea.", None, 0.0),
    ],
)
def test_what_a_students_answer_is_worth(text, output, reward):
    assert student_reward(said(text, output)) == reward


def test_what_a_passage_says_is_not_said_by_the_student():
    assert student_reward(act("student_1", "Bergen", references=["Oslo"], read=["Oslo is a town."])) == 10.0


def test_a_set_is_worth_what_its_students_gain():
    assert set_reward([0.5, 0.25, 0.25, 0.0], 0.125) == 0.125 and set_reward([0.0], 0.5) == -0.5


def test_the_median_student():
    assert [median_student(found) for found in ([0.3], [0.9, 0.1, 0.5], [0.4, 0.1, 0.3, 0.2], [0.5, 0.5])] == [
        0,
        2,
        3,
        0,
    ]


def test_leave_one_out_over_all_items_of_a_step():
    """Two sets of two items worth 0.3 and -0.1: of the other three items the means are 1/30 and 1/6."""
    config = load_recipe("soar-tiny")
    groups = [
        Group((act("generator", "q", "a", question=f"set {i}"),) * 2, (Reward({"gain": gain}),) * 2)
        for i, gain in enumerate((0.3, -0.1))
    ]
    taught = lesson(groups, config.advantage_of("generator"), config.loss_of("generator"), {})
    expected = [0.3 - 1 / 30, 0.3 - 1 / 30, -0.1 - 1 / 6, -0.1 - 1 / 6]
    assert [signal.advantage for signal in taught.signals] == pytest.approx(expected)


def test_students_must_have_roles():
    config = load_recipe("mae-tiny")
    with pytest.raises(UserError, match=r"SOAR teaches roles named student_1, \.\.\. and keeps one as candidate"):
        SOAR(config, {})


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown key own_phase\.SOAR\.options\.innner; use hard_tries, asked"):
        SOAR(load_recipe("soar-tiny"), {"innner": 1})
    with pytest.raises(UserError, match=r"own_phase\.SOAR\.options: Expected `int`, got `str`"):
        SOAR(load_recipe("soar-tiny"), {"asked": "many"})


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play_small("soar-tiny", tmp_path_factory.mktemp("soar") / "run", SMALL)


def test_the_teacher_learns_and_a_student_becomes_the_policy(played):
    assert played.moved >= {"generator", "policy"}
    kept = {path[1]: value for path, value in played.kept.items()}
    assert kept["promotions"] == 1 and kept["rewards"] == []  # after three steps, above -2
    assert 0 < len(kept["stored"]) <= 2 and {item["references"][0] for item in kept["stored"]} != {""}


def test_items_of_a_set_earn_what_was_measured(played):
    sets = {}
    for row in played.rows:
        assert row["role"] == "generator" and "gain" in row["reward_parts"]
        sets.setdefault((row["step"], row["question"]), set()).add(row["reward"])
    assert len(sets) == 6 and all(len(rewards) == 1 for rewards in sets.values())
    eighths = {reward * 8 for rewards in sets.values() for reward in rewards}
    assert len(eighths) > 1 and all(gain == int(gain) for gain in eighths)  # of eight hard questions


def test_the_hard_questions_are_found_once(played):
    hard = next(value for path, value in played.kept.items() if path[1] == "hard")
    assert 8 <= len(hard) <= 16 and all(item["references"] for item in hard)


def test_a_resume_gives_the_same_bits(played, tmp_path):
    assert play_killed("soar-tiny", tmp_path / "run", SMALL).same_as(played)
