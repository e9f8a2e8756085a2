"""Fathom: both rewards and the factor of RAPO against numbers by hand, its labels, epochs and replays, and a round."""

import random

import pytest

from aslfast.checkpoint.state import TrainState
from aslfast.config import load_recipe
from aslfast.core import Group, Question, Reward
from aslfast.learner.advantage import lesson
from aslfast.rounds.task_context import TaskContext, TrainingData
from aslfast.systems.search import fathom
from aslfast.systems.search.fathom import Calls
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.turns import act, said, search, seen

SMALL = [
    "data.labelled_count=12", "own_phase.FathomStageOne.tasks_per_step=12", "own_phase.FathomStageOne.group_size=2",
    "own_phase.FathomStageOne.steps=3", "own_phase.FathomStageTwo.steps=1", "own_phase.FathomStageTwo.tasks_per_step=2",
    "own_phase.FathomStageTwo.group_size=2", "sampler.temperature=0.9", "sampler.max_turns=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return play_small("fathom-tiny", tmp_path_factory.mktemp("fathom") / "run", SMALL)


def test_the_first_stage():
    assert sum(fathom.first_stage(True, True).values()) == pytest.approx(1.0)
    assert sum(fathom.first_stage(False, True).values()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("right", "form", "calls", "expected"),
    [
        (True, True, Calls(unique=3, redundant=1), 0.85),  # rho 1/4: 0.1 + 0.75
        (True, True, Calls(unique=1, redundant=2, explored=1, repeated=1), 0.6),  # rho 3/5: at least 0.5
        (True, False, Calls(), 1.0),
        (False, True, Calls(unique=5, redundant=1, explored=6, verified=2, repeated=4), 0.25),  # 0.1 + 0.1 + 0.05
        (False, False, Calls(unique=20, explored=40), 0.4),  # both at most 1
        (False, False, Calls(redundant=4), -0.1),
    ],
)
def test_the_steerable_reward(right, form, calls, expected):
    assert sum(fathom.second_stage(right, form, calls).values()) == pytest.approx(expected)


def read(page):
    return said(f'<tool_call>{{"name": "read", "arguments": {{"page": "{page}"}}}}</tool_call>')


def test_calls_are_labelled():
    turns = [
        search("Oslo"), seen("x", "a", "b"),
        search("the OSLO"), seen("x", "c"),  # the same query
        search("Norway"), seen("x", "b", "a"),  # nothing new found
        search("Aker"), seen("x", "a", "d"),
        read("one"), seen("x"), read("one"), seen("x"), read("one"), seen("x"), read("two"), seen("x"),
        search("never answered"),
    ]  # fmt: skip
    assert fathom.labelled(act(*turns)) == Calls(unique=2, redundant=2, explored=2, verified=1, repeated=1)


def group(question, *totals):
    acts = [(act(said(f"{i}"), question=question), Reward({"right": total})) for i, total in enumerate(totals)]
    return Group.of(acts)


def test_advantages_make_up_for_groups_that_teach_nothing():
    config = load_recipe("fathom")
    groups = [group("a", 1.0, 0.0), group("b", 0.0, 0.0), group("c", 1.0, 1.0), group("d", 0.0, 1.0)]
    taught = lesson(groups, config.advantage_of("policy"), config.loss)
    advantages = [signal.advantage for signal in taught.signals]  # 4 groups, 2 of unequal rewards: twice 1
    assert advantages == pytest.approx([2, -2, 0, 0, 0, 0, -2, 2], abs=1e-4)


def phase_of(recipe="fathom-tiny", **steps):
    config = load_recipe(recipe, [f"own_phase.FathomStageOne.{key}={value}" for key, value in steps.items()])
    return fathom.FathomStageOne(config, {}), config


def test_solved_prompts_are_dropped_when_an_epoch_ends():
    phase, config = phase_of(tasks_per_step=2)
    questions = [Question(f"{i}", f"question {i}?", ("x",)) for i in range(4)]
    context = TaskContext(config, TrainState(round=1), TrainingData((), questions))
    first, second = phase.tasks(context), phase.tasks(context)
    assert sorted(q.text for q in [*first, *second]) == [q.text for q in questions]
    phase.after_step([group("question 0?", 0.9, 0.9), group("question 1?", 0.9, 0.0), group("Question 2?", 0.9)])
    assert phase.state.dropped == []  # not before the end
    now = {q.text for q in phase.tasks(context)}
    assert phase.state.dropped == ["question 0", "question 2"] and now == {"question 1?", "question 3?"}


def test_the_latest_success_stands_in_where_all_fail():
    phase, _ = phase_of()
    phase.state.successes.add([group("a", 0.6, 0.4)], 1, lambda _, reward: reward.total > 0.5)
    phase.state.successes.add([group("a", 0.9)], 2, lambda _, reward: reward.total > 0.5)
    helped = phase._helped(group("a", 0.1, 0.2, 0.3), random.Random(0))
    assert sorted(reward.total for reward in helped.rewards)[-1] == 0.9 and len(helped.rewards) == 3
    for left in (group("a", 0.1, 0.6), group("b", 0.1, 0.1)):  # a success of its own; none of before
        assert phase._helped(left, random.Random(0)) is left


def test_one_round_in_the_lab(whole):
    assert whole.moved == {"policy"}
    assert [line["phase"] for line in whole.lines] == ["FathomStageOne"] * 3 + ["FathomStageTwo"]
    parts = [set(line["reward_parts"]) for line in whole.lines]
    assert parts[0] == {"format", "right"} and parts[-1] >= {"search", "read"}
    assert sum(line["replayed"] for line in whole.lines) > 0 == whole.lines[0]["replayed"]
    assert all(line["left_out"] == line["replayed"] for line in whole.lines)  # one for one


def test_what_it_kept(whole):
    rates = {path[2]: rate for path, rate in whole.kept.items() if path[:2] == ("FathomStageOne", "rates")}
    dropped = whole.kept["FathomStageOne", "dropped"]
    assert whole.kept["FathomStageOne", "epoch"] == 3 and len(rates) == 12
    assert dropped and all(rates[key] >= 0.9 for key in dropped)


def test_a_resume_changes_no_bit(whole, tmp_path):
    assert play_killed("fathom-tiny", tmp_path / "run", SMALL).same_as(whole)
