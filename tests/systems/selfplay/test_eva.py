"""eva: what a question is worth, which evolved ones are taken, and a pool in the lab that is drawn from by value."""

import pytest

from aslfast.config import load_recipe
from aslfast.core import Group, Question, Reward, Task
from aslfast.systems.selfplay.eva import Eva, value_of
from tests.support.systems.acts import act
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.scripted import play_once

SMALL = ("own_phase.Eva.tasks_per_step=4", "own_phase.Eva.group_size=1", "own_phase.Eva.options.answers=4")
PHASE = 'phases=["aslfast.systems.selfplay.eva:Eva"]'
PROMPTS = [
    'roles.generator.prompt="evolve {question}: {method}"', 'roles.policy.prompt="answer: {question}"',
    'roles.grm.prompt="judge {question} {answer}"', 'roles.grm.output=["score"]', "own_phase.Eva.options.answers=3",
    'own_phase.Eva.options.check_prompt="check {question} {answer}"',
]  # fmt: skip


@pytest.mark.parametrize(("scores", "value"), [([1.0, 0.25, 0.5], 0.75), ([0.5, 0.5], 0.0), ([1.0], 0.0)])
def test_a_question_is_worth_the_gap_between_its_answers(scores, value):
    assert value_of(scores) == value


def made(recipe="eva-tiny"):
    config = load_recipe(recipe)
    return Eva(config, config.own_phase["Eva"].options)


def test_the_pool_keeps_questions_by_what_their_answers_differ_by():
    phase = made()
    phase.state.add(Question("old", "Where was Mira born?", ("Oslo",)), 1.0)
    alike = Group((act("policy", "Oslo", question="Where was Mira born?"),) * 2, (Reward({"r": 0.5}),) * 2)
    new = act("policy", "Aker", question="Which river?", references=["Aker"])
    phase.after_step([alike, Group((new, new), (Reward({"r": 1.0}), Reward({"r": 0.25})))])
    kept = {item.question.text: (item.priority, item.question.reference) for item in phase.state.items.values()}
    assert kept == {"Where was Mira born?": (0.01, "Oslo"), "Which river?": (0.75, "Aker")}


def play_one(make_context, evolved, check="9", name="run"):
    """The play of one question whose rewriting the check scores."""
    scores = {"Oslo": 10, "Bergen": 1, "Aker": 4}
    answers = iter(["Oslo", "Bergen", "Aker"])

    def script(prompt, seed):
        if "evolve " in prompt:
            return [f"<question>{evolved}</question><answer>Aker</answer>"]
        if "check " in prompt:
            return [f"<score>{check}</score>"]
        if "judge " in prompt:
            answer = prompt.partition("judge ")[2].partition("<")[0].split()[-1]
            return [f"<score>{scores[answer]}</score>"]
        return [f"<answer>{next(answers)}</answer>"]

    context = make_context(name, script=script, overrides=[PHASE, *PROMPTS, "own_phase.Eva.options.evolved=1.0"])
    acts, play = play_once(Eva, context, Task("t", "policy", "", "Which town?", ("Oslo",)))
    return acts, [play.settled(each, None) for each in acts], play.context.counters.failed_checks


def test_an_evolved_question_is_answered_in_the_old_ones_place(make_context):
    acts, rewards, failed = play_one(make_context, "Which river lies there?")
    assert {a.task.question for a in acts} == {"Which river lies there?"} and acts[0].task.references == ("Aker",)
    assert sorted(rewards) == pytest.approx([0.0, 1 / 3, 1.0]) and failed == {}  # (s - 1) / 9 of 1, 4 and 10


@pytest.mark.parametrize(("evolved", "check", "failed"), [
    ("which TOWN?", "9", "new"), ("Which river?", "7", "accepted"), ("Which river?", "none", "accepted"),
])  # fmt: skip
def test_one_that_fails_a_check_leaves_the_old_one(make_context, evolved, check, failed):
    acts, _, counted = play_one(make_context, evolved, check)
    assert {a.task.question for a in acts} == {"Which town?"} and counted == {failed: 1}


def test_the_warm_up_evolves_nothing():
    assert load_recipe("eva").schedule["own_phase.Eva.options.evolved"].by_round == (0.0, 0.5)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play_small("eva-tiny", tmp_path_factory.mktemp("eva") / "run", SMALL)


def test_the_policy_learns_and_the_pool_follows(played):
    assert played.moved == {"policy"}
    items = {}
    for (_, _, key, name), value in played.kept.items():
        items.setdefault(key, {})[name] = value
    assert sum(item["drawn"] for item in items.values()) == 8  # 4 a step
    assert len(items) > 12  # the labelled ones and evolved ones
    groups = {}
    for row in played.rows:
        groups.setdefault((row["step"], row["question"]), []).append(row["reward"])
    values = {question: max(0.01, max(found) - min(found)) for (_, question), found in sorted(groups.items())}
    kept = {item["question"]["text"]: item["priority"] for item in items.values()}
    assert all(kept[question] == value for question, value in values.items()) and set(values.values()) == {0.01, 1.0}


def test_a_resume_gives_the_same_bits(played, tmp_path):
    assert play_killed("eva-tiny", tmp_path / "run", SMALL).same_as(played)
