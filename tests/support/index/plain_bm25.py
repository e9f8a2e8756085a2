"""BM25 in plain Python, one passage at a time: the expected hits of the index, to the last bit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from aslfast.data.corpus import Passage
from aslfast.index.bm25 import BM25Index, analyze

F = np.float32


def lucene_length(length: int) -> int:
    """Lucene's SmallFloat.byte4ToInt(intToByte4(length))."""
    if length < 40:
        return length
    shift = (length - 24).bit_length() - 4
    return 24 + ((length - 24) >> shift << shift)


class PlainBM25:
    def __init__(self, passages: Sequence[Passage], k1: float = 0.9, b: float = 0.4, analyzer: str = "english") -> None:
        self.passages, self.k1, self.b, self.analyzer = passages, k1, b, analyzer
        self.docs = [Counter(analyze(passage.contents, analyzer)) for passage in passages]
        self.lengths = [doc.total() for doc in self.docs]
        self.n = sum(length > 0 for length in self.lengths)
        self.df = Counter(term for doc in self.docs for term in doc)

    def search(self, query: str, k: int, scores: str = "exact") -> list[tuple[str, float]]:
        counts = Counter(analyze(query, self.analyzer))
        found = [(self._score(counts, i, scores), -i) for i in range(len(self.docs))]
        return [(self.passages[-i].id, score) for score, i in sorted(found, reverse=True)[:k] if score > 0]

    def _score(self, query: Counter[str], i: int, scores: str) -> float:
        total = 0.0
        for term, count in query.items():
            if term in self.docs[i]:
                df = self.df[term]
                weight = F(count) * F(math.log1p((self.n - df + 0.5) / (df + 0.5)))
                total += float(weight - weight / (F(1) + F(self.docs[i][term]) * self._inverse(i, scores)))
        return float(F(total))

    def _inverse(self, i: int, scores: str) -> np.float32:
        """Return Lucene's norm in float32 throughout, as Lucene computes it."""
        with np.errstate(divide="ignore", over="ignore"):  # k1 = 0
            if scores == "lucene":
                k1, b, mean = F(self.k1), F(self.b), F(sum(self.lengths) / self.n)
                return F(1) / (k1 * ((F(1) - b) + b * F(lucene_length(self.lengths[i])) / mean))
            norm = self.k1 * (1 - self.b) + self.k1 * self.b * self.n / sum(self.lengths) * self.lengths[i]
            return F(np.float64(1) / np.float64(norm))


def hits(index: BM25Index, query: str, k: int, **options: object) -> list[tuple[str, float]]:
    """Return the index's hits in the form of PlainBM25's."""
    result = index.search([query], k, **options)  # type: ignore[arg-type]
    scores = result.scores[0, : len(result.ids[0])].tolist()
    assert not result.scores[0, len(scores) :].any() and (result.docs[0, len(scores) :] == -1).all()
    return list(zip(result.ids[0], scores, strict=True))
