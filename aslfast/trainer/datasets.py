"""What the roles learn from and are evaluated on: indexes, topics, held-out tasks; from the lab or from files."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aslfast.config import RunConfig
from aslfast.core import Task
from aslfast.data.qa_dataset import Question, read_questions, write_questions
from aslfast.data.topics import read_topics
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index
from aslfast.lab import demonstrations
from aslfast.lab.world import World
from aslfast.prompts import role_tasks
from aslfast.retrieval.retriever import AnyIndex, open_index

GENERATOR_EVALS = 150  # questions asked for when the generator is measured
GRM_EVALS = 300


@dataclass(frozen=True)
class Datasets:
    """What a run reads. Oracles (a question -> its true answer or None) and evaluation tasks of generator and judge
    exist in the lab alone.

    `oracle` is of the held-out world; `train_oracle`, of the world to learn in, is the monitor's: no reward sees it.
    """

    index: AnyIndex
    topics: Sequence[str]
    eval_index: AnyIndex
    policy_evals: Sequence[Task]
    grm_evals: Sequence[Task] = ()
    generator_evals: Sequence[Task] = ()
    oracle: Callable[[str], str | None] | None = None
    train_oracle: Callable[[str], str | None] | None = None
    labelled: Sequence[Question] = ()  # real questions to learn from, where the recipe uses any


def file_datasets(config: RunConfig) -> Datasets:
    """Open the files that the configuration names. Raises UserError."""
    data = config.data
    for key in ("index", "topics", "eval_questions"):
        if not getattr(data, key):
            raise UserError(f"data.{key} is not set; name a path with --set data.{key}=PATH")
    topics = read_topics(data.topics)
    questions = read_questions(data.eval_questions, data.eval_count)
    index = open_index(data.index, config.tool.timeout_s, config.tool.retries)
    eval_index = index
    if data.eval_index:
        eval_index = open_index(data.eval_index, config.tool.timeout_s, config.tool.retries)
    evals = policy_evals(questions, config.model.prompts)
    return Datasets(index, topics, eval_index, evals, labelled=labelled_questions(config))


def uses_labelled(config: RunConfig) -> bool:
    return config.policy.question_source == "labelled" or config.grm.gold_label_fraction > 0


def labelled_questions(config: RunConfig) -> list[Question]:
    if not uses_labelled(config):
        return []
    if not config.data.labelled:
        why = (
            "policy.question_source is labelled"
            if config.policy.question_source == "labelled"
            else "grm.gold_label_fraction is above 0"
        )
        raise UserError(f"data.labelled is not set, and {why}; name a question file with --set data.labelled=PATH")
    return read_questions(config.data.labelled, config.data.labelled_count)


def policy_evals(questions: Sequence[Question], prompts: str) -> list[Task]:
    return [role_tasks.policy_task(f"eval-{q.id}", q.question, prompts, q.answers, q.hops) for q in questions]


def lab_datasets(config: RunConfig, folder: Path) -> Datasets:
    """Make two worlds without a common entity, one to learn in, one held out; write both to `folder` for later use.

    What is there from before is complete, and opened as it is.
    """
    seed, prompts, count = config.seed, config.model.prompts, config.data.eval_count
    learned, heldout = World.make(seed, "train"), World.make(seed, "heldout")
    index, eval_index = _index(learned, folder / "train.idx"), _index(heldout, folder / "heldout.idx")
    questions = lab_questions(heldout, seed, count)
    write_questions(folder / "heldout.parquet", questions)
    judgements = lab_judgements(heldout, questions, seed, prompts, config.grm.variant, config.grm.folds)
    return Datasets(
        index, list(learned.facts), eval_index, policy_evals(questions, prompts), judgements,
        lab_generator_tasks(heldout, seed, prompts), heldout.answer, learned.answer,
        lab_questions(learned, seed, config.data.labelled_count) if uses_labelled(config) else (),
    )  # fmt: skip


def _index(world: World, folder: Path) -> BM25Index:
    return BM25Index.open(folder) if folder.exists() else BM25Index.build(world.passages(), folder)


def lab_questions(world: World, seed: int, count: int) -> list[Question]:
    found = world.questions(random.Random(f"questions-{seed}"), count)
    return [Question(f"h{i}", q.question, (q.answer,), q.hops) for i, q in enumerate(found)]


def lab_judgements(
    world: World, questions: Sequence[Question], seed: int, prompts: str, variant: str = "tool", folds: int = 1
) -> list[Task]:
    """Return judgements of right and plausible wrong answers in turn; of two judges each has every second question."""
    rng = random.Random(f"judgements-{seed}")
    tasks = []
    for i in range(GRM_EVALS):
        question = questions[i // 2 % len(questions)]
        right = question.answers[0]
        answer = right if i % 2 == 0 else demonstrations.wrong_answer(world, question.question, right, rng)
        label = "correct" if i % 2 == 0 else "wrong"
        fold = i // 2 % 2 + 1 if folds > 1 else 0
        tasks.append(
            role_tasks.grm_task(
                f"eval-j{i}", question.question, answer, prompts, label, question.hops, variant, right, fold
            )
        )
    return tasks


def lab_generator_tasks(world: World, seed: int, prompts: str) -> list[Task]:
    topics = random.Random(f"topics-{seed}").sample(list(world.facts), GENERATOR_EVALS)
    return [role_tasks.generator_task(f"eval-g{i}", topic, i % 3 + 1, prompts) for i, topic in enumerate(topics)]
