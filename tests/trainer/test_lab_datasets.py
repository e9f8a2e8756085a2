"""The lab's evaluation tasks."""

from aslfast.config import load_recipe
from aslfast.lab.world import World
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
