"""What the roles learn from and are evaluated on: indexes, topics, held-out tasks, as an environment gives them; and
the environment of the user's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from aslfast.config import RunConfig
from aslfast.config.schema import SFT
from aslfast.core import Question, Task
from aslfast.data.qa_dataset import read_questions
from aslfast.data.topics import read_topics
from aslfast.environment import Environment
from aslfast.errors import UserError
from aslfast.metrics.health import Oracle
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.tool_calls import SEARCH
from aslfast.retrieval.retriever import AnyIndex, open_index
from aslfast.rollout.environments.open_environment import open_environment
from aslfast.rollout.environments.own_environment import OwnEnvironment, as_questions


@dataclass(frozen=True)
class Datasets:
    """The data of a run. Evaluation tasks of generator and judge exist in the lab alone.

    An oracle maps a question to its true answer, or to all right spellings of it; to None or () where it has none.
    `oracle` is that of the held-out world; `train_oracle`, of the training world, is used by the monitor only: no
    reward depends on it.
    """

    index: AnyIndex | None  # None: nothing to search
    topics: Sequence[str]
    eval_index: AnyIndex | None
    policy_evals: Sequence[Task]
    grm_evals: Sequence[Task] = ()
    generator_evals: Sequence[Task] = ()
    oracle: Oracle | None = None
    train_oracle: Oracle | None = None
    labelled: Sequence[Question] = ()  # labelled questions to learn from, if the recipe uses any
    environment: OwnEnvironment | None = None  # of one's own


def datasets_of(environment: Environment, config: RunConfig) -> Datasets:
    """Return what an environment gives. Raise UserError."""
    index, eval_index = environment.index(False), environment.index(True)
    if index is None and config.data.index:
        index = _open(config, config.data.index)
    if eval_index is None:
        eval_index = _open(config, config.data.eval_index) if config.data.eval_index else index
    evals = as_questions(environment.eval_tasks())[: config.data.eval_count]
    has_oracle = environment.gives("oracle")
    return Datasets(
        index, environment.topics(), eval_index, policy_evals(evals, config.model.prompts),
        oracle=partial(environment.oracle, held_out=True) if has_oracle else None,
        train_oracle=partial(environment.oracle, held_out=False) if has_oracle else None,
        labelled=as_questions(environment.tasks()) if uses_labelled(config) else (),
    )  # fmt: skip


def _open(config: RunConfig, place: str) -> AnyIndex:
    return open_index(place, config.tool.timeout_s, config.tool.retries)


class FileEnvironment(Environment):
    """The files that the configuration names, which must be set; the index, if a role searches it. Raise UserError."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        for key in (*(["index"] if _searches_index(config) else ()), "topics", "eval_questions"):
            if not getattr(config.data, key):
                raise UserError(f"data.{key} is not set; name a path with --set data.{key}=PATH")
        self._topics = read_topics(config.data.topics)
        self._evals = read_questions(config.data.eval_questions, config.data.eval_count)

    def topics(self) -> Sequence[str]:
        """Return those of data.topics."""
        return self._topics

    def eval_tasks(self) -> Sequence[Question]:
        """Return those of data.eval_questions."""
        return self._evals

    def tasks(self) -> Sequence[Question]:
        """Return those of data.labelled, if the recipe uses any."""
        return labelled_questions(self.config)


def _searches_index(config: RunConfig) -> bool:
    """Return whether a role searches an index, or demonstrations are to be made from it."""
    demos = SFT in config.phases and not config.sft.data
    return demos or any(SEARCH in config.tools_of(role) for role in config.roles)


def file_datasets(config: RunConfig) -> Datasets:
    """Open the files that the configuration names. Raise UserError."""
    return datasets_of(FileEnvironment(config), config)


def own_datasets(config: RunConfig, notify: Callable[[str], None] = lambda _: None) -> Datasets:
    """Open the environment of one's own that the configuration names, and try it. Raise UserError."""
    environment = open_environment(config, notify)
    return replace(datasets_of(environment, config), environment=environment)


def uses_labelled(config: RunConfig) -> bool:
    """Return whether the recipe learns from labelled questions."""
    return bool(_why_labelled(config))


def _why_labelled(config: RunConfig) -> str:
    """Return what in the recipe asks for labelled questions; empty if nothing does."""
    if config.policy.question_source == "labelled":
        return "policy.question_source is labelled"
    if SFT in config.phases and not config.sft.data:
        return "the phase sft is to make demonstrations of them (sft.data is not set either)"
    return "grm.gold_label_fraction is above 0" if config.grm.gold_label_fraction > 0 else ""


def labelled_questions(config: RunConfig) -> list[Question]:
    """Return the labelled questions; none if the recipe does not use them. Raise UserError."""
    if not uses_labelled(config):
        return []
    if not config.data.labelled:
        what = f"data.labelled is not set, and {_why_labelled(config)}"
        raise UserError(f"{what}; name a question file with --set data.labelled=PATH")
    return read_questions(config.data.labelled, config.data.labelled_count)


def policy_evals(questions: Sequence[Question], prompts: str) -> list[Task]:
    """Return the policy's evaluation tasks."""
    return [PromptBuilder(prompts).policy(f"eval-{q.id}", q) for q in questions]
