"""Near-duplicates among questions: the same question in nearly the same words. Only the first is kept."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

NEAR = 0.85
_STOP_WORDS = {
    "a", "am", "an", "and", "are", "as", "at", "be", "been", "being", "by", "did", "do", "does", "for", "from", "had",
    "has", "have", "in", "is", "it", "its", "of", "on", "or", "s", "that", "the", "there", "these", "this", "those",
    "to", "was", "were", "with",
}  # fmt: skip


def question_similarity(left: str, right: str) -> float:
    """Return |A & B| / |A | B| (Jaccard), A and B the words and the pairs of neighbouring words with their counts.

    Stop words are left out. 0 where the numbers in them differ; 1 for the same words in the same order; symmetric.
    Pairs and counts, since the order and the length of a chain matter ("the river of the home of X", "the teacher of
    the teacher of X"); question words count (who, when).
    """
    return _similarity(_shingles(left), _shingles(right))


def distinct_questions(questions: Sequence[str], near: float = NEAR) -> list[int]:
    """Return the indices of the questions that are no near-duplicate (similarity >= `near`) of one kept before.

    Exact, by a prefix filter (Chaudhuri 2006, Bayardo 2007): in any fixed order of shingles two sets of similarity at
    least t share one among the first n - ceil(t n) + 1 of each. Rare shingles first, so that few are compared: about
    linear in practice.
    """
    shingled = [_shingles(question) for question in questions]
    counts = Counter(shingle for shingles in shingled for shingle in shingles)
    kept: list[int] = []
    holders: dict[str, list[int]] = {}  # a shingle -> the kept questions with it in their prefix
    for place, shingles in enumerate(shingled):
        prefix = _prefix(shingles, counts, near)
        others = {other for shingle in prefix for other in holders.get(shingle, ())}
        if not any(_similarity(shingles, shingled[other]) >= near for other in others):
            kept.append(place)
            for shingle in prefix:
                holders.setdefault(shingle, []).append(place)
    return kept


def _prefix(shingles: frozenset[str], counts: Counter[str], near: float) -> list[str]:
    """Return the rarest shingles, so many that a similar set has one of them among its own."""
    length = len(shingles) - math.ceil(near * len(shingles) - 1e-9) + 1
    return sorted(shingles, key=lambda shingle: (counts[shingle], shingle))[:length]


def _shingles(question: str) -> frozenset[str]:
    """Return the words and the pairs of neighbours, each with its number; the whole text where it has no word."""
    words = [word for word in re.findall(r"\w+", question.lower()) if word not in _STOP_WORDS]
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    seen = Counter(words + pairs or [" ".join(question.lower().split())])
    return frozenset(f"{shingle}#{n}" for shingle, count in seen.items() for n in range(1, count + 1))


def _similarity(left: frozenset[str], right: frozenset[str]) -> float:
    if _numbers(left) != _numbers(right):
        return 0.0
    return len(left & right) / len(left | right)


def _numbers(shingles: frozenset[str]) -> set[str]:
    """Return the single words that contain a digit."""
    return {s for s in shingles if " " not in s and any(map(str.isdigit, s.partition("#")[0]))}
