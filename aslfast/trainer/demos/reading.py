"""Reading practice: a passage once, then the questions about it in turn, each answered by a few of its words.

A small model reads before it searches: on the same tokens it sees several times as many questions as in demonstrations,
each of which has a prompt and a passage of its own, and answers far more of them right (docs/real.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aslfast.data.corpus import Passage
from aslfast.prompts.templates import one_line
from aslfast.trainer.demos.evidence import Evidence, Library, query_of
from aslfast.trainer.demos.make import CHUNK, LabelledQuestion

TOP_K = 10  # passages a question's key words find, among which is its own
SYSTEM = "Read the passage, then answer each question with a few of its words:\n<answer>a few words</answer>"


@dataclass(frozen=True)
class Practice:
    """Conversations as `aslfast sft` reads them, and how many questions stand in none."""

    conversations: Sequence[list[dict[str, str]]]
    questions: int
    left_out: int


def make_practice(
    library: Library, labelled: Sequence[LabelledQuestion], inert: Callable[[str], str], seed: int,
    done: Callable[[int], None],
) -> Practice:  # fmt: skip
    """Return a conversation for each passage that holds answers, in an order by the seed.

    inert: makes a text spell no control token and no tag. done: called with a number of questions done.
    """
    asked: dict[Passage, list[tuple[str, str]]] = {}
    for start in range(0, len(labelled), CHUNK):
        chunk = labelled[start : start + CHUNK]
        for each, evidence in zip(chunk, _evidence(library, chunk), strict=True):
            if evidence is not None:
                asked.setdefault(evidence.passage, []).append((each.question.text, evidence.answer))
        done(len(chunk))
    most = library.tool.max_passage_chars
    conversations = [_conversation(inert(p.contents[:most]), pairs, inert) for p, pairs in asked.items()]
    random.Random(seed).shuffle(conversations)
    n = sum(map(len, asked.values()))
    return Practice(conversations, n, len(labelled) - n)


def _evidence(library: Library, chunk: Sequence[LabelledQuestion]) -> list[Evidence | None]:
    lookups = library.look_up([query_of(each.question) for each in chunk])
    return [library.find(e.question, e.gold, lookup) for e, lookup in zip(chunk, lookups, strict=True)]


def _conversation(passage: str, pairs: Sequence[tuple[str, str]], inert: Callable[[str], str]) -> list[dict[str, str]]:
    """Return the messages; the passage stands before the first question."""
    messages = [{"role": "system", "content": SYSTEM}]
    for place, (question, answer) in enumerate(pairs):
        asked = f"Question: {inert(one_line(question))}"
        messages.append({"role": "user", "content": asked if place else f"{passage}\n\n{asked}"})
        messages.append({"role": "assistant", "content": f"<answer>{inert(one_line(answer))}</answer>"})
    return messages
