"""An answer against its references: exact match, substring match, whole-word match, cover match, word F1.

All compare normalised texts, take the best reference, and give 0 for no answer (None) or a text that normalises to
nothing.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

MOST_CACHED_CHARS = 256  # of a text whose normal form is kept: answers and questions are compared again and again


def normalize(text: str) -> str:
    """Return a text in lower case, without punctuation and articles, with single spaces: as SQuAD and Search-R1 do.

    We differ where nothing would be left ("The The", "?"): the lower-case text stays, so that such answers differ.
    """
    return _normalize_short(text) if len(text) <= MOST_CACHED_CHARS else _normalize(text)


def _normalize(text: str) -> str:
    lower = text.lower()
    bare = "".join(c for c in lower if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split()) or " ".join(lower.split())


_normalize_short = lru_cache(maxsize=1 << 15)(_normalize)  # at most some 20 MB


def spellings(truth: str | Sequence[str] | None) -> Sequence[str]:
    """Return what an oracle says as references: its one answer, all spellings of it, or none."""
    return (truth,) if isinstance(truth, str) else truth or ()


def exact_match(answer: str | None, references: Sequence[str]) -> bool:
    """Return EM (SQuAD, Search-R1, FlashRAG): normalize(answer) = normalize(reference) for any reference."""
    return answer is not None and normalize(answer) in {normalize(reference) for reference in references}


def substring_match(answer: str | None, references: Sequence[str]) -> bool:
    """Return sub-EM: the answer contains a reference's letters ("Osloer" contains "Oslo").

    `subem_check` of Search-R1 and ASL, `acc` of FlashRAG; ASL's rule baseline. We differ for an empty reference, which
    no answer contains here.
    """
    said = normalize(answer or "")
    return any(normalize(reference) in said for reference in references if normalize(reference))


def contains_match(answer: str | None, references: Sequence[str]) -> bool:
    """Return whether the answer contains a reference as a run of whole words.

    Cover-EM's ordered form: "CEM-2" in R1-Searcher's evaluation.
    """
    said = f" {normalize(answer or '')} "
    return any(f" {normalize(reference)} " in said for reference in references if normalize(reference))


def cover_match(answer: str | None, references: Sequence[str]) -> bool:
    """Return cover-EM: the answer contains every word of a reference, in any order.

    "CEM-1", which R1-Searcher and its followers report; FlashRAG and Search-R1 have no such metric.
    """
    said = set(normalize(answer or "").split())
    return any(set(normalize(reference).split()) <= said for reference in references if normalize(reference))


def f1(answer: str | None, references: Sequence[str]) -> float:
    """Return the best F1 = 2 |A & R| / (|A| + |R|) of words with their counts against any reference (SQuAD).

    FlashRAG also gives "yes" and "no" no partial credit; SQuAD and we do not.
    """
    said = Counter(normalize(answer or "").split())
    return max((_f1(said, Counter(normalize(reference).split())) for reference in references), default=0.0)


def _f1(said: Counter[str], wanted: Counter[str]) -> float:
    common = (said & wanted).total() if said and wanted else 0
    return 2 * common / (said.total() + wanted.total()) if common else 0.0
