"""The lab's datasets: two synthetic worlds, one to learn in, one held out, and evaluation tasks with known answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from aslfast.config import RunConfig
from aslfast.core import Question, Task
from aslfast.data.qa_dataset import write_questions
from aslfast.index.bm25 import BM25Index
from aslfast.lab import demonstrations
from aslfast.lab.world import World
from aslfast.prompts.builder import PromptBuilder
from aslfast.trainer.datasets import Datasets, policy_evals, uses_labelled

GENERATOR_EVALS = 150  # questions to write
GRM_EVALS = 300  # answers to judge


def lab_datasets(config: RunConfig, folder: Path) -> Datasets:
    """Generate two worlds without a common entity and write both to `folder`.

    An index that is already there is complete, and is opened as it is.
    """
    seed, learned, heldout = config.seed, World.make(config.seed, "train"), World.make(config.seed, "heldout")
    index, eval_index = _index(learned, folder / "train.idx"), _index(heldout, folder / "heldout.idx")
    questions = lab_questions(heldout, seed, config.data.eval_count)
    write_questions(folder / "heldout.parquet", questions)
    return Datasets(
        index=index,
        topics=list(learned.facts),
        eval_index=eval_index,
        policy_evals=policy_evals(questions, config.model.prompts),
        grm_evals=lab_judgements(heldout, questions, config),
        generator_evals=lab_generator_tasks(heldout, config),
        oracle=heldout.answer,
        train_oracle=learned.answer,
        labelled=lab_questions(learned, seed, config.data.labelled_count) if uses_labelled(config) else (),
    )


def _index(world: World, folder: Path) -> BM25Index:
    return BM25Index.open(folder) if folder.exists() else BM25Index.build(world.passages(), folder)


def lab_questions(world: World, seed: int, count: int) -> list[Question]:
    """Return `count` questions of a world with their answers."""
    found = world.questions(random.Random(f"questions-{seed}"), count)
    return [Question(f"h{i}", q.question, (q.answer,), q.hops) for i, q in enumerate(found)]


def lab_judgements(world: World, questions: Sequence[Question], config: RunConfig) -> list[Task]:
    """Return the judge's evaluation tasks: right and plausible wrong answers in turn.

    With two judges, each gets every second question.
    """
    grm, rng = config.grm, random.Random(f"judgements-{config.seed}")
    builder, tasks = PromptBuilder(config.model.prompts, grm.variant), []
    for i in range(GRM_EVALS):
        question = questions[i // 2 % len(questions)]
        right = question.reference
        answer = right if i % 2 == 0 else demonstrations.wrong_answer(world, question.text, right, rng)
        label = "correct" if i % 2 == 0 else "wrong"
        fold = i // 2 % 2 + 1 if grm.folds > 1 else 0
        tasks.append(builder.judge(f"eval-j{i}", question, answer, label, fold))
    return tasks


def lab_generator_tasks(world: World, config: RunConfig) -> list[Task]:
    """Return the generator's evaluation tasks: topics of the world, with one to three hops."""
    topics = random.Random(f"topics-{config.seed}").sample(list(world.facts), GENERATOR_EVALS)
    builder = PromptBuilder(config.model.prompts)
    return [builder.generator(f"eval-g{i}", topic, i % 3 + 1) for i, topic in enumerate(topics)]
