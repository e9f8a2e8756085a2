"""What a recipe may change of a round: order, sources of questions, pool sizes, ends, labels, references, judges."""

import asyncio
import dataclasses
import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aslfast import rewards
from aslfast.config import load_recipe, recipe_names
from aslfast.config.schedules.table import by_round
from aslfast.core import StopReason, Task, Trajectory, Turn
from aslfast.data.qa_dataset import Question
from aslfast.errors import UserError
from aslfast.prompts.builder import SECOND_JUDGE, PromptBuilder
from aslfast.rewards.distractors import answer_form, plausible_wrong
from aslfast.rewards.labels import voted_reference
from aslfast.systems.asl.generator_phase import generate_question, generator_tasks, question_group
from aslfast.systems.asl.judge import judge_of, other_fold, source_fold
from aslfast.systems.asl.judge_phase import gold_tasks, verification_tasks
from aslfast.systems.asl.policy_phase import answer_group, policy_tasks, record_accuracy
from aslfast.systems.registry import phases_of, plan_of
from aslfast.trainer.preflight import dry_run
from tests.support.scripted_world import WORLD, actors, attempts_of, gather, play, prefilled

REAL = [Question(f"r{i}", q.question, (q.answer,), q.hops) for i, q in enumerate(WORLD.questions(random.Random(3), 30))]


def labelled(context):
    context.data = dataclasses.replace(context.data, labelled=REAL)
    return context


def test_by_round():
    assert [by_round(("topic", "width", "depth"), n) for n in (1, 2, 3, 9)] == ["topic", "width", "depth", "depth"]


def test_phases_stand_in_the_recipes_order(make_context):
    context = prefilled(make_context(script=actors(), overrides=['phases=["policy", "generator"]']))
    assert list(dict.fromkeys(line["phase"] for line in play(context))) == ["policy", "generator"]
    assert context.state.phases_done == ((1, "policy"), (1, "generator"))


# --- generator -------------------------------------------------------------------------------------------------


def test_later_rounds_vary_what_the_policy_has_trained_on(make_context):
    """Width keeps the hops; depth adds one from an accuracy of half on, else takes one, within the recipe's hops."""
    context = prefilled(make_context(script=actors(), overrides=['generator.source=["topic", "width", "depth"]']))
    keys = list(context.state.pool)
    context.state.accuracy = {keys[0]: 0.5, keys[1]: 0.49, keys[2]: 1.0, "not in the pool": 1.0}
    olds = {context.state.pool[key].text: (context.state.pool[key], context.state.accuracy[key]) for key in keys[:3]}
    for number, kind in ((1, "topic"), (2, "width"), (3, "depth"), (4, "depth")):
        context.state.round = number
        tasks = [task for step in generator_tasks(context.tasks) for task in step]
        assert len(tasks) == 6 and len({task.id for task in tasks}) == 6
        if kind == "topic":
            assert {task.question for task in tasks} == {""}
            continue
        assert Counter(task.question for task in tasks) == dict.fromkeys(olds, 2)
        for task in tasks:
            old, accuracy = olds[task.question]
            more = 0 if kind == "width" else 1 if accuracy >= 0.5 else -1
            assert task.hops == min(3, max(1, old.hops + more)) and task.references == (old.reference,)
            assert task.prompt == f"ask {task.hops}: {old.reference}"


def test_topics_until_something_was_trained_on(make_context):
    context = make_context(script=actors(), overrides=['generator.source=["depth"]'])
    assert {task.question for step in generator_tasks(context.tasks) for task in step} == {""}


def test_the_policys_phase_leaves_its_accuracies(make_context):
    """Of the questions of the newest phase alone, without the format reward."""
    context = prefilled(make_context(script=actors(fair=1.0)))
    context.state.accuracy = {"old": 1.0}
    tasks = policy_tasks(context.tasks)
    groups = [gather(context, answer_group, task) for task in tasks[0]]
    record_accuracy(context.state, groups)
    assert context.state.accuracy.keys() == {rewards.normalize(task.question) for task in tasks[0]}
    for group in groups:
        question = group.trajectories[0].task.question
        right = [t.output == WORLD.answer(question) for t in group.trajectories]
        assert context.state.accuracy[rewards.normalize(question)] == pytest.approx(sum(right) / len(right))
    context.state.phase_step = 1  # a later step of the same phase adds to them
    before = dict(context.state.accuracy)
    record_accuracy(context.state, [])
    assert context.state.accuracy == before


def test_enough_questions_end_the_phase(make_context):
    def steps(name, wanted):
        context = make_context(name, actors(), [f"generator.target_questions={wanted}", "generator.steps=4"])
        lines = [line for line in play(context) if line["phase"] == "generator"]
        return len(lines), len(context.state.pool)

    all_steps, _ = steps("all", [0])
    enough, found = steps("enough", [3])
    assert all_steps == 4 and enough < 4 and found >= 3
    assert steps("never", [10_000])[0] == 4


@pytest.mark.parametrize("keep, enters", [((0.0, 1.0), True), ((0.9, 1.0), True), ((0.3, 0.8), False)])
def test_the_pool_keeps_a_range_of_difficulty(make_context, keep, enters):
    """All attempts are right here, so a pool of middling questions takes none."""
    context = make_context(script=actors(right=1.0, fair=1.0), overrides=[f"generator.pass_rate_range={list(keep)}"])
    gather(context, question_group, PromptBuilder("compact").generator("g1-0", next(iter(WORLD.facts)), 1))
    assert bool(context.state.pool) is enters


VOTE = [
    "generator.reference=vote",
    "generator.self_checks=0",
    "policy.reward=exact_match",
    "policy.verdicts_per_answer=0",
]


def test_a_vote_replaces_the_generators_answer(make_context):
    """R-Zero: the solver's majority is the reference, and p is the share that agrees with it. No judge is asked."""
    context = make_context(script=actors(right=1.0, honest=0.0), overrides=VOTE)
    task = PromptBuilder("compact").generator("g1-0", next(iter(WORLD.facts)), 1)
    outcome = asyncio.run(generate_question(context.start_step(), task, 0))
    written, question, evidence = outcome.written, outcome.accepted, outcome.evidence
    truth = WORLD.answer(question.text)
    assert question.reference == truth != written.output_answer
    assert evidence.verdicts == ("correct",) * 4 and [a.answer for a in question.attempts] == [truth] * 4
    assert {request.adapter for request in context.rollout.sampler.requests} == {"generator", "policy"}


def test_without_a_judge_the_rule_measures_the_attempts(make_context):
    """Absolute Zero: against the generator's own answer, wrong here, so no attempt passes."""
    context = make_context(script=actors(right=1.0, honest=0.0), overrides=[*VOTE, "generator.reference=own"])
    task = PromptBuilder("compact").generator("g1-0", next(iter(WORLD.facts)), 1)
    outcome = asyncio.run(generate_question(context.start_step(), task, 0))
    question, evidence = outcome.accepted, outcome.evidence
    assert evidence.verdicts == ("wrong",) * 4 and question.reference != WORLD.answer(question.text)


@given(st.lists(st.none() | st.sampled_from(["Oslo", "oslo", "The Oslo", "Rome", "Kiel"]), max_size=9))
def test_the_vote(answers):
    given_answers = [answer for answer in answers if answer is not None]
    voted = voted_reference(answers, "own")
    if not given_answers:
        assert voted == "own"
        return
    counts = Counter(map(rewards.normalize, given_answers))
    assert counts[rewards.normalize(voted)] == max(counts.values()) and voted in given_answers


# --- ends ------------------------------------------------------------------------------------------------------


def test_a_plateau_ends_a_phase(make_context):
    """A random model earns nothing: after the window of 4 steps its reward has stopped to rise."""
    context = prefilled(
        make_context(
            overrides=["policy.steps=9", "policy.plateau_window=4", "policy.prompts_per_step=1", "generator.steps=1"]
        )
    )
    lines = [line for line in play(context) if line["phase"] == "policy"]
    assert len(lines) == 4 and context.state.step_rewards == () and context.state.phase_step == 0
    context = prefilled(
        make_context("none", overrides=["policy.steps=5", "policy.prompts_per_step=1", "generator.steps=1"])
    )
    assert len([line for line in play(context) if line["phase"] == "policy"]) == 5


# --- questions of the policy -----------------------------------------------------------------------------------


def test_a_pool_of_so_many_questions(make_context):
    context = make_context(
        script=actors(), overrides=["policy.steps=3", "policy.prompts_per_step=6", "policy.max_questions=5"]
    )
    context.state.pool = prefilled(make_context("other", actors())).state.pool
    tasks = [task for step in policy_tasks(context.tasks) for task in step]
    assert len(tasks) == 18 and len({task.question for task in tasks}) == 5


def test_labelled_questions_need_no_generator(make_context):
    """Search-R1: the reward is exact match with the real answers."""
    recipe = load_recipe("search-r1-tiny")
    assert [phase.name for phase in phases_of(recipe)] == ["policy"]
    rule = [
        "policy.question_source=labelled",
        "policy.reward=exact_match",
        "policy.verdicts_per_answer=0",
        'phases=["policy"]',
    ]
    context = labelled(make_context(script=actors(), overrides=rule))
    lines = play(context)
    assert [line["phase"] for line in lines] == ["policy", "policy"] and not context.state.pool
    asked = {task.question for step in policy_tasks(context.tasks) for task in step}
    assert asked <= {q.text for q in REAL}
    assert all(0 < line["reward_parts"]["rule"] < 1 for line in lines)
    assert {request.adapter for request in context.rollout.sampler.requests} == {"policy"}


# --- real verification data ------------------------------------------------------------------------------------


def test_late_injection(make_context):
    """From the round on, that share of the judge's tasks comes from real questions, right and wrong in turn."""
    context = labelled(
        prefilled(make_context(overrides=["grm.gold_label_fraction=0.5", "grm.gold_label_from_round=3", "grm.steps=4"]))
    )
    for number, share in ((1, 0), (3, 0.5)):
        context.state.round = number
        context.state.pool = {k: dataclasses.replace(q, round=number) for k, q in context.state.pool.items()}
        tasks = [task for step in verification_tasks(context.tasks) for task in step]
        real = [task for task in tasks if task.id.startswith("r")]
        assert len(tasks) == 12 and len(real) == share * 12
    for task in real:
        truth = WORLD.answer(task.question)
        assert (task.prompt.rpartition("answer: ")[2] == truth) == (task.references == ("correct",))
    assert Counter(task.references[0] for task in real) == {"correct": 3, "wrong": 3}


def test_gold_tasks_alone_and_more_than_there_are_questions(make_context):
    """Labels from real data only: grm.gold_label_fraction = 1."""
    context = labelled(
        make_context(overrides=["grm.gold_label_fraction=1.0", "grm.steps=30", "grm.prompts_per_step=4"])
    )
    tasks = [task for step in verification_tasks(context.tasks) for task in step]
    assert len(tasks) == 120 == len({task.id for task in tasks})
    assert gold_tasks(context.tasks, 0, 0, random.Random(0)) == []


@given(st.integers(0, 10_000))
def test_a_plausible_wrong_answer_is_wrong_and_of_a_kind(seed):
    rng = random.Random(seed)
    question = rng.choice(REAL)
    others = [(q.text, q.references[0]) for q in REAL]
    wrong = plausible_wrong(question.text, question.references, others, rng)
    assert not rewards.exact_match(wrong, question.references) and wrong in {answer for _, answer in others}
    if any(answer_form(a) == answer_form(question.references[0]) and a != question.references[0] for _, a in others):
        assert answer_form(wrong) == answer_form(question.references[0])


def test_no_wrong_answer_where_all_others_may_be_right():
    others = [("Which town?", "Oslo"), ("And which?", "oslo, Norway"), ("Where?", "Os")]
    assert plausible_wrong("Which town is it?", ["Oslo"], others, random.Random(0)) is None
    assert plausible_wrong("Which year was it?", ["1912"], [("x", "Rome"), ("y", "1848")], random.Random(0)) == "1848"


def test_answer_forms():
    assert answer_form("1912") == ("number", 1) and answer_form("Ada Lovelace") == ("name", 2)
    assert answer_form("the blue one that nobody saw") == ("word", 3) and answer_form("") == ("word", 1)


# --- two judges ------------------------------------------------------------------------------------------------

FOLDS = ["grm.folds=2", "grm.label=reference"]


def written_from(*observations):
    turns = tuple(Turn("tool", 0, 0, text) for text in observations)
    return Trajectory(Task("g", "generator", "x"), (), (), (), turns, StopReason.FINISHED, "q?", "a")


def test_a_source_falls_into_one_half():
    """By the title of the passage found last; the same for every question from it; both halves about alike."""
    folds = [source_fold(written_from("other", f'"Title {i}"\ntext {i}'), 2) for i in range(200)]
    assert folds == [source_fold(written_from(f'"Title {i}"\nanother text'), 2) for i in range(200)]
    assert 70 < folds.count(1) < 130 and set(folds) == {1, 2}
    assert source_fold(written_from("anything"), 1) == 0 and source_fold(written_from(), 2) in (1, 2)
    assert [other_fold(fold) for fold in (0, 1, 2)] == [0, 2, 1]


def test_each_judge_learns_on_its_half_and_judges_the_other(make_context):
    context = make_context(script=actors(), overrides=FOLDS)
    for fold in (1, 2):
        name = f"q{fold}?"
        attempts = attempts_of("Oslo", "Rome")
        question = dataclasses.replace(prefilled(make_context(f"of{fold}")).state.pool.popitem()[1], fold=fold)
        context.state.pool[name] = dataclasses.replace(question, text=name, references=("Oslo",), attempts=attempts)
    for fold, judge in ((1, "grm"), (2, SECOND_JUDGE)):
        tasks = [task for step in verification_tasks(context.tasks, fold) for task in step]
        assert {task.question for task in tasks} == {f"q{fold}?"} and {task.role for task in tasks} == {judge}
    for task in (task for step in policy_tasks(context.tasks) for task in step):
        context.rollout.sampler.requests.clear()
        asked_about = Question("q", task.question, ("Oslo",), fold=task.fold)
        asyncio.run(judge_of(context.start_step()).verdicts("v", asked_about, "Oslo", 1))
        (asked,) = {request.adapter for request in context.rollout.sampler.requests}
        assert asked == ("grm" if task.question == "q2?" else SECOND_JUDGE)


def test_a_round_with_two_judges(make_context):
    context = make_context(script=actors(), overrides=[*FOLDS, "generator.steps=3"])
    lines = play(context)
    assert [phase.name for phase in phases_of(context.config)] == ["generator", "grm", SECOND_JUDGE, "policy"]
    assert {line["phase"] for line in lines} == {"generator", "grm", SECOND_JUDGE, "policy"}
    assert context.learner.version["grm"] > 0 and context.learner.version[SECOND_JUDGE] > 0
    assert (context.checkpointer.run.path / "adapters" / SECOND_JUDGE).is_dir()
    judged = {q.fold for q in context.state.pool.values()}
    assert judged == {1, 2}


# --- recipes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_plan_the_phases_that_they_run(name):
    config = load_recipe(name)
    assert [p.name for p in plan_of(config)] == [p.name for p in phases_of(config)]
    assert dry_run.describe(config) and json.dumps(dataclasses.asdict(config))


def test_labelled_data_must_be_named(tmp_path):
    from aslfast.trainer.datasets import labelled_questions

    for override, why in (
        ("policy.question_source=labelled", "policy.question_source"),
        ("grm.gold_label_fraction=0.1", "grm.gold_label_fraction"),
    ):
        config = load_recipe("asl-qwen2.5-7b", [override])
        with pytest.raises(UserError, match=f"data.labelled is not set, and {why}"):
            labelled_questions(config)
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question": "which?", "answers": ["Oslo"]}) + "\n")
    config = load_recipe("search-r1", [f"data.labelled={path}"])
    assert [q.references for q in labelled_questions(config)] == [("Oslo",)]
    assert labelled_questions(load_recipe("asl-qwen2.5-7b")) == []
