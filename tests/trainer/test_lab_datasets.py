"""The lab's evaluation tasks."""

import pytest

from aslfast.config import load_recipe
from aslfast.core import StopReason, Task, Trajectory
from aslfast.lab.world import World
from aslfast.metrics import scoring
from aslfast.trainer import lab_datasets


def test_the_judge_is_asked_in_the_recipes_variant():
    config = load_recipe("tiny", ["grm.variant=reference", "model.prompts=compact"], seed=0)
    world = World.make(0, "heldout", {"work": 12, "person": 10, "place": 8})
    questions = lab_datasets.lab_questions(world, 0, 4)
    tasks = lab_datasets.lab_judgements(world, questions, config)
    for task in tasks[:8]:
        asked, _, shown = task.prompt.rpartition(" says ")
        assert shown == world.answer(task.question)
        assert asked.endswith(f"answer: {shown}") == (task.references == ("correct",))


SECOND = ["data.lab=true", "data.world=2", "data.eval_count=40", "data.labelled_count=30", "model.prompts=compact"]


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    config = load_recipe("search-r1-tiny", SECOND, seed=4)
    lab = lab_datasets.LabEnvironment(config, tmp_path_factory.mktemp("lab"))
    return lab, lab_datasets.lab_datasets(config, tmp_path_factory.mktemp("lab"))


def test_the_second_world_is_measured_by_every_right_spelling(second):
    lab, datasets = second
    assert [task.hops for task in datasets.policy_evals] == [1, 2, 3, 4] * 10
    for task in datasets.policy_evals:
        assert set(task.references) == set(datasets.oracle(task.question)) == set(lab.heldout.answer(task.question))
    assert any(len(task.references) > 1 for task in datasets.policy_evals)
    assert not set(lab.learned.names) & set(lab.heldout.names)


def test_a_labelled_question_of_the_second_world_has_one_spelling_its_passages(second):
    lab, datasets = second
    text = "\n".join(passage.contents for passage in lab.learned.passages())
    for question in datasets.labelled:
        assert len(question.references) == 1 and f" {question.reference}." in text
        assert question.reference in datasets.train_oracle(question.text)


def test_labelled_questions_have_the_hops_asked_for(tmp_path):
    config = load_recipe("search-r1-tiny", [*SECOND, "data.labelled_hops=[1,2]"], seed=4)
    lab = lab_datasets.LabEnvironment(config, tmp_path)
    assert [question.hops for question in lab.tasks()] == [1, 2] * 15
    assert {question.hops for question in lab.eval_tasks()} == {1, 2, 3, 4}


def test_the_second_worlds_judgements_are_right_and_wrong_in_turn(second):
    _, datasets = second
    for task in datasets.grm_evals:
        answer = task.prompt.rpartition(" answer: ")[2]
        assert (answer in datasets.oracle(task.question)) == (task.references == ("correct",))
    assert [task.hops for task in datasets.generator_evals[:5]] == [1, 2, 3, 4, 1]


def test_the_solvable_share_counts_any_spelling():
    task, said = (
        Task("g", "generator", "ask"),
        [("what is a?", "T. Vilken"), ("what is a?", "Kelo"), ("what is b?", "x")],
    )
    written = [Trajectory(task, (), (), (), (), StopReason.FINISHED, question, answer) for question, answer in said]
    truths = {"what is a?": ("Tamo Vilken", "T. Vilken"), "what is b?": ()}
    scores = scoring.generator_scores(written, truths.__getitem__)
    assert scores["solvable_share"] == scores["reference_right"] == 1 / 3
