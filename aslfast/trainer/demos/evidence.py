"""What a demonstration rests on: a query of the question's key words, a retrieved sentence that holds the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.core import Question
from aslfast.data.corpus import Passage
from aslfast.prompts.templates import one_line
from aslfast.prompts.tool_calls import SEARCH, Call
from aslfast.retrieval.retriever import AnyIndex, retrieve
from aslfast.rewards.match import contains_match, normalize
from aslfast.rollout.search_tool import Observation, SearchTool

MAX_KEYWORDS = 12  # of a query
MAX_SENTENCE_CHARS = 400  # of the evidence that a demonstration quotes
TOPIC_KEYWORDS = 4  # at most, beside the topic in a generator's query
# what a question has and its answer's passage need not: function words, question words, auxiliaries
_FUNCTION_WORDS = """
a about after all also an and any are as at be because been before being between both but by can could did do does
during each for from had has have he her his how if in into is it its kind known many may might more most much name
named no not of on one only or other our over she should so some such than that the their them then there these they
this to under up was we were what when where which while who whom whose why will with would you your
"""
# white space after a full stop, question or exclamation mark, but not after an initial or a short title
SENTENCE_END = re.compile(
    r"""(?:(?<=[.!?])|(?<=[.!?]["')]))(?<!\b[A-Z]\.)(?<!\b(?:St|Dr|Mr|Ms|No|vs)\.)(?<!\bMrs\.)\s+(?=["'(\[]?[A-Z0-9])"""
)
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True, slots=True)
class Lookup:
    """A query, the passages that it finds, and the observation that the search tool makes of them."""

    query: str
    passages: Sequence[Passage]
    observation: Observation


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sentence of a retrieved passage that holds an accepted answer."""

    passage: Passage
    sentence: str
    answer: str  # as the question's references spell it

    @property
    def topic(self) -> str:
        """The passage's title in plain words; empty if it has none."""
        return one_line(self.passage.title.replace("_", " "))


@dataclass(frozen=True, slots=True)
class Library:
    """The index behind the search tool."""

    index: AnyIndex
    tool: SearchTool

    def look_up(self, queries: Sequence[str]) -> list[Lookup]:
        """Return what each query finds."""
        observed = self.tool.answer([Call(SEARCH, {"query": query}) for query in queries])
        found = retrieve(self.index, queries, self.tool.top_k)
        return [Lookup(*each) for each in zip(queries, found, observed, strict=True)]

    def find(self, question: Question, gold: str | None, lookup: Lookup) -> Evidence | None:
        """Return the sentence that shares most words with the question among those that hold an answer.

        gold: the id of the passage that it must be from, where that is known. None if no sentence holds an answer and
        a word of the question.
        """
        asked = set(normalize(" ".join(keywords(question.text))).split())
        best, most = None, 0
        for passage in lookup.passages:
            if gold is not None and passage.id != gold:
                continue
            read = Passage(passage.id, passage.contents[: self.tool.max_passage_chars])
            for sentence in sentences(read.text):
                answer = next((a for a in question.references if contains_match(sentence, [a])), None)
                shared = len(asked & set(normalize(f"{passage.title} {sentence}").split())) if answer else 0
                if answer and shared > most:
                    best, most = Evidence(passage, sentence, answer), shared
        return best


def keywords(text: str) -> list[str]:
    """Return the words of a question that a query needs, in order."""
    words = [word.strip("'.-").removesuffix("'s") for word in re.findall(r"[\w'.-]+", text.replace("\u2019", "'"))]
    return [word for word in dict.fromkeys(words) if word and word.lower() not in STOP_WORDS][:MAX_KEYWORDS]


def query_of(question: Question) -> str:
    """Return the query for a question: its key words; the question itself where it has none."""
    return " ".join(keywords(question.text)) or one_line(question.text)


def topic_queries(question: Question, topic: str) -> list[str]:
    """Return queries about a topic, from the topic alone to ever more of what the question asks about."""
    known = set(normalize(topic).split())
    more = [word for word in keywords(question.text) if normalize(word) not in known][:TOPIC_KEYWORDS]
    return [" ".join([topic, *more[:n]]) for n in range(len(more) + 1)]


def sentences(text: str) -> list[str]:
    """Return the sentences of a passage, each on one line, without those too long to quote."""
    found = SENTENCE_END.split(one_line(text))
    return [sentence for sentence in found if 0 < len(sentence) <= MAX_SENTENCE_CHARS]
