"""What an environment offers to ask about, and how the lab's judge is asked."""

import pytest

from aslfast.errors import UserError
from aslfast.lab.world import World
from aslfast.trainer import datasets


def test_general_topics(tmp_path):
    topics = datasets.read_topics("general")
    assert len(topics) == len(set(topics)) == 73
    (tmp_path / "mine.txt").write_text("Rivers\n\n  Old towns \n")
    assert datasets.read_topics(str(tmp_path / "mine.txt")) == ["Rivers", "Old towns"]
    with pytest.raises(UserError, match="no such topics file"):
        datasets.read_topics("generl")


def test_the_labs_judge_is_asked_in_its_variant():
    world = World.make(0, "heldout", {"work": 12, "person": 10, "place": 8})
    questions = datasets.lab_questions(world, 0, 4)
    tasks = datasets.lab_judgements(world, questions, 0, "compact", "reference")
    for task in tasks[:8]:
        asked, _, shown = task.prompt.rpartition(" says ")
        assert shown == world.answer(task.question)
        assert asked.endswith(f"answer: {shown}") == (task.references == ("correct",))
