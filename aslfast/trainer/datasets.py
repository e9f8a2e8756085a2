"""What the roles learn from and are evaluated on: indexes, topics, held-out tasks. Here, from the user's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aslfast.config import RunConfig
from aslfast.core import Question, Task
from aslfast.data.qa_dataset import read_questions
from aslfast.data.topics import read_topics
from aslfast.errors import UserError
from aslfast.prompts.builder import PromptBuilder
from aslfast.retrieval.retriever import AnyIndex, open_index


@dataclass(frozen=True)
class Datasets:
    """The data of a run. Oracles and evaluation tasks of generator and judge exist in the lab alone.

    An oracle maps a question to its true answer, or None. `oracle` is that of the held-out world; `train_oracle`, of
    the training world, is used by the monitor only: no reward depends on it.
    """

    index: AnyIndex
    topics: Sequence[str]
    eval_index: AnyIndex
    policy_evals: Sequence[Task]
    grm_evals: Sequence[Task] = ()
    generator_evals: Sequence[Task] = ()
    oracle: Callable[[str], str | None] | None = None
    train_oracle: Callable[[str], str | None] | None = None
    labelled: Sequence[Question] = ()  # labelled questions to learn from, if the recipe uses any


def file_datasets(config: RunConfig) -> Datasets:
    """Open the files that the configuration names. Raise UserError."""
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
    """Return whether the recipe learns from labelled questions."""
    return config.policy.question_source == "labelled" or config.grm.gold_label_fraction > 0


def labelled_questions(config: RunConfig) -> list[Question]:
    """Return the labelled questions; none if the recipe does not use them. Raise UserError."""
    if not uses_labelled(config):
        return []
    if not config.data.labelled:
        by_policy = config.policy.question_source == "labelled"
        why = "policy.question_source is labelled" if by_policy else "grm.gold_label_fraction is above 0"
        raise UserError(f"data.labelled is not set, and {why}; name a question file with --set data.labelled=PATH")
    return read_questions(config.data.labelled, config.data.labelled_count)


def policy_evals(questions: Sequence[Question], prompts: str) -> list[Task]:
    """Return the policy's evaluation tasks."""
    return [PromptBuilder(prompts).policy(f"eval-{q.id}", q) for q in questions]
