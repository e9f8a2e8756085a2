"""How often search finds the gold passage: by the question, by its key words, by the policy's own queries."""

from __future__ import annotations

from collections.abc import Sequence

from aslfast.retrieval.retriever import AnyIndex, retrieve
from aslfast.rollout.search_tool import MAX_QUERY_CHARS
from aslfast.trainer.demos.evidence import query_of
from aslfast.trainer.demos.make import LabelledQuestion


def finds_gold(
    index: AnyIndex, queries: Sequence[Sequence[str]], golds: Sequence[str | None], top_k: int
) -> list[bool]:
    """Return for each question whether one of its queries finds its gold passage among the first `top_k`."""
    flat = [query[:MAX_QUERY_CHARS] for own in queries for query in own]
    found = iter(retrieve(index, flat, top_k) if flat else [])
    by_question = [{passage.id for _ in own for passage in next(found)} for own in queries]
    return [gold in ids for gold, ids in zip(golds, by_question, strict=True)]


def question_ceilings(index: AnyIndex, labelled: Sequence[LabelledQuestion], top_k: int) -> dict[str, list[bool]]:
    """Return whether the question itself, and its key words, find its gold passage."""
    golds = [each.gold for each in labelled]
    by = {
        "question": [[each.question.text] for each in labelled],
        "key words": [[query_of(each.question)] for each in labelled],
    }
    return {name: finds_gold(index, queries, golds, top_k) for name, queries in by.items()}
