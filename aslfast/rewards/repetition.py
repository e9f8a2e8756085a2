"""R-Zero's penalty for questions that repeat each other: the fraction of a batch in the question's BLEU cluster."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

DISTANCE = 0.5  # clusters nearer than this are merged
ORDER = 4  # longest n-grams of BLEU


@lru_cache(maxsize=4)
def repetition_shares(questions: tuple[str, ...]) -> tuple[float, ...]:
    """Return for each question the size of its cluster over that of the batch, from 1 / n to 1.

    Average-linkage clusters at distance 1 - BLEU of at most 0.5 (R-Zero's code, arXiv 2508.05004). Its cost grows with
    the square of the batch: 60 ms for 100 questions.
    """
    import numpy as np  # here: the configuration reads the names of rewards, and stays light without it

    cluster = list(range(len(questions)))
    distance = np.array(_distances([question.split() for question in questions]))
    sizes = np.ones(len(questions))
    while len(questions) > 1:
        i, j = sorted(divmod(int(distance.argmin()), len(questions)))
        if not distance[i, j] < DISTANCE:
            break
        distance[i] = distance[:, i] = (sizes[i] * distance[i] + sizes[j] * distance[j]) / (sizes[i] + sizes[j])
        distance[j] = distance[:, j] = distance[i, i] = math.inf
        sizes[i] += sizes[j]
        cluster = [i if at == j else at for at in cluster]
    return tuple(cluster.count(at) / len(questions) for at in cluster)


def _distances(sentences: Sequence[Sequence[str]]) -> list[list[float]]:
    """Return 1 - BLEU of each pair, [n, n]; infinity on the diagonal."""
    n = len(sentences)
    distance = [[math.inf] * n for _ in sentences]
    for i in range(n):
        for j in range(i + 1, n):
            distance[i][j] = distance[j][i] = 1 - sentence_bleu(sentences[i], sentences[j])
    return distance


def sentence_bleu(said: Sequence[str], reference: Sequence[str]) -> float:
    """Return BLEU-4 of one sentence (Papineni 2002): brevity penalty times the geometric mean of n-gram precisions.

    0.1 stands for a count of 0 (Chen and Cherry 2014, method 1); 0 without a common word.
    """
    logs = []
    for order in range(1, ORDER + 1):
        mine, theirs = _ngrams(said, order), _ngrams(reference, order)
        common = sum((mine & theirs).values())
        if order == 1 and not common:
            return 0.0
        logs.append(math.log((common or 0.1) / max(1, sum(mine.values()))))
    brevity = min(0.0, 1 - len(reference) / len(said))
    return math.exp(brevity + sum(logs) / ORDER)


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
