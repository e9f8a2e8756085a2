"""What an environment offers to ask about, and how the lab's judge is asked."""


from aslfast.lab.world import World
from aslfast.trainer import datasets


def test_the_labs_judge_is_asked_in_its_variant():
    world = World.make(0, "heldout", {"work": 12, "person": 10, "place": 8})
    questions = datasets.lab_questions(world, 0, 4)
    tasks = datasets.lab_judgements(world, questions, 0, "compact", "reference")
    for task in tasks[:8]:
        asked, _, shown = task.prompt.rpartition(" says ")
        assert shown == world.answer(task.question)
        assert asked.endswith(f"answer: {shown}") == (task.references == ("correct",))
