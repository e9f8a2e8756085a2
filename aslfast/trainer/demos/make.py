"""Labelled questions and an index -> a file of demonstrations; which questions gave none, and why."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from aslfast.config import RunConfig
from aslfast.core import Question, Trajectory
from aslfast.data.qa_dataset import read_questions
from aslfast.data.qa_rows import read_rows
from aslfast.errors import UserError
from aslfast.models.base_model import model_folder
from aslfast.models.tokenizer import load_tokenizer
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.parsing import valid_question
from aslfast.prompts.templates import prompt_text
from aslfast.retrieval.retriever import AnyIndex
from aslfast.rollout.multi_turn import Limits, stable_seed
from aslfast.rollout.search_tool import SearchTool
from aslfast.trainer.demos.evidence import Evidence, Library, Lookup, query_of, topic_queries
from aslfast.trainer.demos.roles import RolePlayer, Written

CHUNK = 16  # questions looked up at once: with five queries each, less than a server takes in one request


@dataclass(frozen=True, slots=True)
class LabelledQuestion:
    """A question with its answers; gold: the id of its passage, where the file has a column gold_passage."""

    question: Question
    gold: str | None


@dataclass(frozen=True)
class Demonstrations:
    """What was written, and how many were not, by reason and role."""

    trajectories: list[Trajectory] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, role: str, written: Written) -> None:
        """Keep a demonstration, or count why there is none."""
        if isinstance(written, str):
            self.left_out[f"{role}: {written}"] += 1
        else:
            self.trajectories.append(written)


def read_labelled(path: Path, limit: int | None) -> list[LabelledQuestion]:
    """Return the questions of a file with their gold passages. Raise UserError."""
    questions = read_questions(path, limit)
    golds = [row.get("gold_passage") for _, row in islice(read_rows(path), limit)]
    return [LabelledQuestion(q, None if gold is None else str(gold)) for q, gold in zip(questions, golds, strict=True)]


def chat_of(config: RunConfig) -> Chat:
    """Return how the model of a configuration frames messages. Raise UserError."""
    folder = model_folder(config.model.path)
    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: no readable tokenizer ({reason}); name a model folder") from error
    return Chat(tokenizer, config.model.prompt_date)


@dataclass(frozen=True)
class DemonstrationMaker:
    """Makes demonstrations for the model of a configuration; its weights are not read. Raise UserError."""

    library: Library
    player: RolePlayer
    roles: Sequence[str]
    seed: int

    @classmethod
    def open(cls, config: RunConfig, index: AnyIndex, roles: Sequence[str]) -> DemonstrationMaker:
        """Return the maker with the model's tokenizer, prompts, limits and search tool."""
        limits = Limits(config.sampler.max_turns, config.sampler.max_new_tokens, config.sampler.max_context)
        system = prompt_text(config.model.prompts, "system")
        player = RolePlayer(chat_of(config), PromptBuilder(config.model.prompts), system, limits)
        tool = SearchTool(index, config.tool.top_k, config.tool.max_passage_chars)
        return cls(Library(index, tool), player, roles, config.seed)

    def make(self, labelled: Sequence[LabelledQuestion], done: Callable[[int], None]) -> Demonstrations:
        """Return the demonstrations of all questions, in order. done: called with a number of questions done."""
        made = Demonstrations()
        others = [(each.question.text, each.question.reference) for each in labelled]
        for start in range(0, len(labelled), CHUNK):
            chunk = labelled[start : start + CHUNK]
            lookups = self.library.look_up([query_of(each.question) for each in chunk])
            found = [self.library.find(e.question, e.gold, lookup) for e, lookup in zip(chunk, lookups, strict=True)]
            topical = self._topical(chunk, found)
            for each, lookup, evidence, about in zip(chunk, lookups, found, topical, strict=True):
                for role, written in self._of(each.question, lookup, evidence, about, others):
                    made.add(role, written)
            done(len(chunk))
        return made

    def _of(
        self, question: Question, lookup: Lookup, evidence: Evidence | None, about: Lookup | None,
        others: Sequence[tuple[str, str]],
    ) -> Iterator[tuple[str, Written]]:  # fmt: skip
        for role in self.roles:
            if evidence is None:
                yield role, "no retrieved sentence holds the answer"
            elif role == "policy":
                yield role, self.player.policy(question, lookup, evidence)
            elif role == "grm":
                rng = random.Random(stable_seed(self.seed, "demo", question.id))
                for written in self.player.judge(question, lookup, evidence, others, rng):
                    yield role, written
            elif not (evidence.topic and valid_question(question.text.strip())):
                yield role, "no valid question, or no title of its passage"
            elif about is None:
                yield role, "its passage is not found by its topic"
            else:
                yield role, self.player.generator(question, about, evidence)

    def _topical(self, chunk: Sequence[LabelledQuestion], found: Sequence[Evidence | None]) -> list[Lookup | None]:
        """Return for each question the shortest lookup about its passage's topic that finds that passage."""
        wanted = [
            topic_queries(each.question, evidence.topic)
            if "generator" in self.roles and evidence and evidence.topic
            else []
            for each, evidence in zip(chunk, found, strict=True)
        ]
        queries = [query for of_one in wanted for query in of_one]
        lookups = iter(self.library.look_up(queries) if queries else [])
        by_question = [[next(lookups) for _ in of_one] for of_one in wanted]
        return [
            next((lookup for lookup in of_one if evidence and evidence.passage in lookup.passages), None)
            for of_one, evidence in zip(by_question, found, strict=True)
        ]
