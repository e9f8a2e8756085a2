"""The lab's datasets: two synthetic worlds, one to learn in, one held out, and evaluation tasks with known answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aslfast.config import RunConfig
from aslfast.core import Question, Task
from aslfast.data.qa_dataset import write_questions
from aslfast.environment import Environment
from aslfast.index.bm25 import BM25Index
from aslfast.lab import demonstrations
from aslfast.lab.world import World
from aslfast.lab.world2.demonstrations import wrong_value
from aslfast.lab.world2.world import World2
from aslfast.prompts.builder import PromptBuilder
from aslfast.trainer.datasets import Datasets, datasets_of

AnyWorld = World | World2
MOST_GENERATOR_EVALS = 150  # questions to write
MOST_GRM_EVALS = 300  # answers to judge


def eval_counts(config: RunConfig) -> tuple[int, int]:
    """Return how many answers the judge and how many questions the generator are evaluated on: as many and half as many
    as the questions of the policy, up to a bound."""
    count = config.data.eval_count
    return min(count, MOST_GRM_EVALS), min(-(-count // 2), MOST_GENERATOR_EVALS)


class LabEnvironment(Environment):
    """Two worlds without a common entity, written to `folder`: one to learn in, one held out.

    An index that is already there is complete, and is opened as it is.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        super().__init__(config)
        world = World2 if config.data.world == 2 else World
        self.learned, self.heldout = world.make(config.seed, "train"), world.make(config.seed, "heldout")
        self._indexes = _index(self.learned, folder / "train.idx"), _index(self.heldout, folder / "heldout.idx")
        self.questions = lab_questions(self.heldout, config.seed, config.data.eval_count)
        write_questions(folder / "heldout.parquet", self.questions)

    def tasks(self) -> list[Question]:
        """Return labelled questions of the world to learn in, each with one spelling of its answer, the passage's."""
        data = self.config.data
        found = lab_questions(self.learned, self.config.seed, data.labelled_count, data.labelled_hops)
        return [replace(question, references=question.references[:1]) for question in found]

    def eval_tasks(self) -> list[Question]:
        """Return questions of the held-out world."""
        return self.questions

    def topics(self) -> list[str]:
        """Return the entities of the world to learn in."""
        return list(self.learned.facts)

    def index(self, held_out: bool) -> BM25Index:
        """Return the index of a world's passages."""
        return self._indexes[held_out]

    def oracle(self, question: str, held_out: bool) -> str | tuple[str, ...] | None:
        """Return the answer that follows from a world's facts, in the second world all right spellings of it."""
        return (self.heldout if held_out else self.learned).answer(question)


def lab_datasets(config: RunConfig, folder: Path) -> Datasets:
    """Return the lab's environment, with evaluation tasks of judge and generator. Both worlds are written to
    `folder`."""
    lab = LabEnvironment(config, folder)
    judgements = lab_judgements(lab.heldout, lab.questions, config)
    return replace(
        datasets_of(lab, config), grm_evals=judgements, generator_evals=lab_generator_tasks(lab.heldout, config)
    )


def _index(world: AnyWorld, folder: Path) -> BM25Index:
    return BM25Index.open(folder) if folder.exists() else BM25Index.build(world.passages(), folder)


def lab_questions(world: AnyWorld, seed: int, count: int, hops: Sequence[int] = ()) -> list[Question]:
    """Return `count` questions of a world, with every right spelling of their answers. hops: in turn; empty: all."""
    found = world.questions(random.Random(f"questions-{seed}"), count, hops)
    return [Question(f"h{i}", q.question, world.references(q), q.hops) for i, q in enumerate(found)]  # pyright: ignore[reportArgumentType]  # a world's own


def lab_judgements(world: AnyWorld, questions: Sequence[Question], config: RunConfig) -> list[Task]:
    """Return the judge's evaluation tasks: right and plausible wrong answers in turn.

    With two judges, each gets every second question.
    """
    grm, rng = config.grm, random.Random(f"judgements-{config.seed}")
    builder, tasks = PromptBuilder(config.model.prompts, grm.variant), []
    for i in range(eval_counts(config)[0]):
        question = questions[i // 2 % len(questions)]
        label = "correct" if i % 2 == 0 else "wrong"
        answer = _judged_answer(world, question, label, rng)
        fold = i // 2 % 2 + 1 if grm.folds > 1 else 0
        tasks.append(builder.judge(f"eval-j{i}", question, answer, label, fold))
    return tasks


def _judged_answer(world: AnyWorld, question: Question, label: str, rng: random.Random) -> str:
    if isinstance(world, World2):
        right = label == "correct"
        return rng.choice(question.references if right else world.forms(wrong_value(world, question.text, rng)))
    right = question.reference
    return right if label == "correct" else demonstrations.wrong_answer(world, question.text, right, rng)


def lab_generator_tasks(world: AnyWorld, config: RunConfig) -> list[Task]:
    """Return the generator's evaluation tasks: topics of the world, with one to three or four hops."""
    topics = random.Random(f"topics-{config.seed}").sample(list(world.facts), eval_counts(config)[1])
    builder = PromptBuilder(config.model.prompts)
    return [builder.generator(f"eval-g{i}", topic, i % world.MOST_HOPS + 1) for i, topic in enumerate(topics)]
