"""Retrieve passages from an index in a folder or behind a URL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from aslfast.data.corpus import Passage
from aslfast.index.bm25 import BM25Index
from aslfast.retrieval.client import RemoteIndex

AnyIndex: TypeAlias = BM25Index | RemoteIndex


def open_index(place: str, timeout_s: float = 30.0, retries: int = 5) -> AnyIndex:
    """Open a folder or http(s)://host:port; `timeout_s` and `retries` are for the latter. Raises UserError."""
    if place.startswith(("http://", "https://")):
        return RemoteIndex.open(place, timeout_s, retries)
    return BM25Index.open(place)


def retrieve(index: AnyIndex, queries: Sequence[str], k: int) -> list[list[Passage]]:
    """Return the k best passages of each query, best first. Raises UserError."""
    if isinstance(index, RemoteIndex):
        return index.retrieve(queries, k)
    rows = index.search(list(queries), k).ids
    ids = list(dict.fromkeys(id_ for row in rows for id_ in row))
    passages = dict(zip(ids, index.passages(ids), strict=True))
    return [[passages[id_] for id_ in row] for row in rows]
