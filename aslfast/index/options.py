"""The arguments of an index, checked. All checks raise UserError."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from aslfast import _bm25
from aslfast.errors import UserError
from aslfast.limits import MOST_HITS, MOST_K1, MOST_MEMORY_MB, MOST_THREADS

MEMORY_MB = 1024  # of postings in memory while a segment is built: a larger corpus is merged from runs on the disk
MIN_MEMORY_MB = 16
Scores: TypeAlias = Literal["exact", "lucene"]


@dataclass(frozen=True, slots=True)
class Similarity:
    """The analyzer, which turns texts into terms, and BM25's parameters."""

    analyzer: str
    k1: float
    b: float

    def __post_init__(self) -> None:
        check_analyzer(self.analyzer)
        if not 0 <= self.k1 <= MOST_K1:  # NaN neither
            raise UserError(f"k1 is {self.k1}; use a number from 0 to {MOST_K1:,g} (0.9 is the default)")
        if not 0 <= self.b <= 1:
            raise UserError(f"b is {self.b}; use a number from 0 to 1 (0.4 is the default)")


@dataclass(frozen=True, slots=True)
class Effort:
    """The resources that a build may use."""

    threads: int  # 0 means all cores
    memory_mb: int

    def __post_init__(self) -> None:
        n_threads(self.threads)
        if not MIN_MEMORY_MB <= self.memory_mb <= MOST_MEMORY_MB:
            bounds = f"{MIN_MEMORY_MB} to {MOST_MEMORY_MB:,} ({MEMORY_MB} is the default)"
            raise UserError(f"memory_mb is {self.memory_mb}; use {bounds}")


def check_analyzer(analyzer: str) -> None:
    """Raise UserError for an unknown analyzer."""
    if analyzer not in _bm25.analyzers():
        raise UserError(f"unknown analyzer {analyzer!r}; use one of {', '.join(_bm25.analyzers())}")


def check_scores(scores: str) -> Scores:
    """Return the kind of scores. Raises UserError for an unknown one."""
    if scores == "exact" or scores == "lucene":
        return scores
    raise UserError(f"unknown scores {scores!r}; use exact or lucene")


def check_hits(k: int) -> int:
    """Return the number of passages to find. Raises UserError out of range."""
    if not 1 <= k <= MOST_HITS:
        raise UserError(f"k is {k}; ask for 1 to {MOST_HITS:,} passages")
    return k


def n_threads(threads: int) -> int:
    """Return the number of threads to use: 0 becomes that of the cores this process may run on. Raises UserError."""
    if not 0 <= threads <= MOST_THREADS:
        raise UserError(f"threads is {threads}; use 0 for all cores, or up to {MOST_THREADS:,} threads")
    if threads:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_texts(texts: Iterable[str], name: str) -> list[str]:
    """Return the texts as UTF-8 can hold them: half a surrogate pair, as JSON can spell it, becomes "?"."""
    if isinstance(texts, str):
        raise TypeError(f"{name} must be several str, not one str")
    return [text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in texts]
