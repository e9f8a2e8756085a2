"""The search tool: calls in, observations out, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aslfast.data.corpus import Passage
from aslfast.prompts.schemas import Schema
from aslfast.prompts.tool_calls import SEARCH, Call
from aslfast.retrieval.retriever import AnyIndex, retrieve

MAX_QUERIES = 3  # of one call; the rest is dropped
MAX_QUERY_CHARS = 500
NOTHING_FOUND = "nothing found"
SEARCH_SCHEMA: Schema = {
    "name": SEARCH,
    "description": "Find passages by key words. Give one query, or up to three at once as query_list.",
    "parameters": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "a few key words"},
            "query_list": {"type": "array", "items": {"type": "string"}, "maxItems": MAX_QUERIES},
        },
    },
}


def queries_of(call: Call) -> list[str]:
    """Return the queries of a call that are searched: the first ones, each cut."""
    return [query[:MAX_QUERY_CHARS] for query in call.queries[:MAX_QUERIES]]


@dataclass(frozen=True, slots=True)
class Observation:
    """What a tool answered to a call. passages: ids of those that the text shows, in order, each once."""

    text: str
    passages: tuple[str, ...] = ()
    texts: tuple[str, ...] = field(default=(), compare=False)  # theirs, which `text` is made of


@dataclass(frozen=True)
class SearchTool:
    """Answers a call with the `top_k` best passages of each query, each truncated to `max_passage_chars`."""

    index: AnyIndex | None  # None: there is nothing to find
    top_k: int = 3
    max_passage_chars: int = 2000

    def answer(self, calls: Sequence[Call]) -> list[Observation]:
        """Return one observation per call; the queries of all calls are searched as one batch."""
        queries, wanted = [queries_of(call) for call in calls], [call.top_k or self.top_k for call in calls]
        flat = [query for of_call in queries for query in of_call]
        found = iter([[] for _ in flat] if self.index is None else retrieve(self.index, flat, max(wanted)))
        each = zip(queries, wanted, strict=True)
        return [self._observation([next(found)[:k] for _ in of_call]) for of_call, k in each]

    def _observation(self, results: Sequence[Sequence[Passage]]) -> Observation:
        passages = dict.fromkeys(passage for result in results for passage in result)
        texts = tuple(passage.contents[: self.max_passage_chars] for passage in passages)
        ids = tuple(dict.fromkeys(passage.id for passage in passages))
        return Observation("\n".join(texts) or NOTHING_FOUND, ids, texts)
