"""RE-Searcher: form, reflections and their sum against numbers by hand, in turns, and by acts in the lab."""

import pytest

from aslfast.config import load_recipe
from aslfast.systems.search import re_searcher
from aslfast.systems.search.re_searcher import SearchStep
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.scripted import PLACE, RIVER, call, play_scripted
from tests.support.systems.turns import act, said, search, seen

NAME = "own_phase.ReSearcherByActs"
SMALL = [f"{NAME}.tasks_per_step=3", f"{NAME}.group_size=4"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return play_small("re-searcher-tiny", tmp_path_factory.mktemp("researcher") / "run", SMALL)


@pytest.mark.parametrize(
    ("right", "form", "reward"), [(True, True, 1.0), (True, False, 0.8), (False, True, 0.2), (False, False, 0.0)]
)
def test_the_answer_by_its_form(right, form, reward):
    assert re_searcher.outcome(right, form) == reward


def test_the_share_of_right_reflections():
    assert re_searcher.reflection([True, None, False], [True, True, True]) == pytest.approx(1 / 3)
    assert re_searcher.reflection([False, True], [False, True]) == 1.0 and re_searcher.reflection([], []) == 0.0


def reflected(word, rest):
    return said(f"<think>so</think><reflect>{word}</reflect>{rest}")


def answered(*words, goals=("its capital", "its river")):
    """An act with a search for each goal, and its reflections."""
    one, two = ({"goal": goal} if goal else {} for goal in goals)
    first, second = words
    turns = [search("Norway", **one), seen("Oslo is it"), reflected(first, search("Oslo", **two)[1]), seen("The Aker")]
    return act(*turns, reflected(second, "<answer>Aker</answer>"), output="Aker", references=("Aker",))


def test_searches_have_goals_and_reflections():
    assert re_searcher.steps(answered("True", "maybe", goals=("its capital", ""))) == [
        SearchStep("its capital", "Oslo is it", True),
        SearchStep("", "The Aker", None),
    ]


@pytest.mark.parametrize(
    ("answer", "judged", "expected"),
    [
        (answered("true", "true"), ("correct", "wrong"), 1.1),  # in form; one of two reflections: 0.2 / 2
        (answered("false", "true"), ("wrong", "correct"), 1.2),
        (answered("true", "true", goals=("its capital", "")), ("correct", None), 0.9),  # no goal: out of form
    ],
)
def test_the_sum(answer, judged, expected):
    phase = re_searcher.ReSearcher(load_recipe("re-searcher"), {"weight": 0.2})
    verdicts = [act(said("x"), role="judge", output=word) for word in judged]
    ((reward, *none),) = phase.rewards(None, [(answer, *verdicts)])
    assert sum(reward.values()) == pytest.approx(expected) and none == [None, None]


def test_reflections_in_turns_are_judged_by_their_goals(make_context):
    asked = []

    def script(prompt, seed):
        if "judge: " in prompt:
            asked.append(prompt.split("judge: ")[1].split("<|im_end|>")[0])
            return ["<verdict>correct</verdict>"]
        word = "true" if seed % 2 else "false"
        return [call(PLACE, goal="its river"), f"<reflect>{word}</reflect><answer>{RIVER}</answer>"]

    roles = [
        'roles.policy.prompt="answer: {question}"', 'roles.judge.adapter="base"', 'roles.judge.output=["verdict"]',
        'roles.judge.prompt="judge: {goal} in {result}"', "own_phase.ReSearcher.options.weight=0.2",
    ]  # fmt: skip
    path = "aslfast.systems.search.re_searcher:ReSearcher"
    rows, line, context = play_scripted(make_context, path, script, *roles, plays=6)
    assert len(asked) == 6 and all(text.startswith("its river in ") and RIVER in text for text in asked)
    answers = [row for row in rows if row["role"] == "policy"]
    assert {round(row["reward"], 6) for row in answers} == {1.2, 1.0}  # the reflection is right, or is not
    assert line["grad_norm"] > 0 and context.learner.version["policy"] == 1
    assert [row["reward"] for row in rows if row["role"] == "judge"] == [None] * 6


def test_one_round_by_acts(whole):
    assert whole.moved == {"policy"}
    by_role = {role: [row for row in whole.rows if row["role"] == role] for role in ("policy", "grm", "judge")}
    assert {len(rows) for rows in by_role.values()} == {24}
    plays = {}
    for row in whole.rows:
        plays.setdefault((row["step"], row["question"], row["role"]), []).append(row)
    for row in by_role["policy"]:
        assert row["reward"] == pytest.approx(sum(row["reward_parts"].values()))
        assert row["reward_parts"]["answer"] in (0.0, 0.2, 0.8, 1.0) and row["reward_parts"]["reflection"] in (0.0, 0.2)
    for (step, question, role), rows in plays.items():
        if role == "grm":  # answer and reflection earn the same
            other = plays[step, question, "policy"]
            assert sorted(one["reward"] for one in rows) == sorted(one["reward"] for one in other)
    assert {row["reward_parts"]["reflection"] for row in by_role["policy"]} == {0.0, 0.2}


def test_a_resume_changes_no_bit(whole, tmp_path):
    assert play_killed("re-searcher-tiny", tmp_path / "run", SMALL).same_as(whole)
