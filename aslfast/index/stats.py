"""Statistics of an index: what it holds and how large it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from aslfast.index.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class IndexStatistics:
    """Counts and sizes of one generation of an index."""

    passages: int  # live ones, as in the next two
    tokens: int  # terms of all passages, with repetition
    non_empty: int  # passages with at least one term
    deleted: int  # passages, which still take space
    segments: int
    terms: int  # stored, summed over the segments, as postings
    postings: int
    bytes: int
    bytes_by_kind: dict[str, int]  # kind of file (terms, windows, postings, ..., deleted) -> bytes
    bytes_per_passage: float  # a live passage
    analyzer: str
    k1: float
    b: float
    generation: int


def statistics_of(snapshot: Snapshot) -> IndexStatistics:
    """Return the statistics of an open index."""
    manifest, counts = snapshot.manifest, snapshot.core.statistics()
    sizes: Counter[str] = Counter()
    for name, size in manifest.sizes().items():
        sizes[PurePosixPath(name).stem if "/" in name else "deleted"] += size
    total = sum(sizes.values())
    return IndexStatistics(
        passages=counts["passages"],
        tokens=counts["tokens"],
        non_empty=counts["non_empty"],
        deleted=sum(segment.deleted.passages for segment in manifest.segments if segment.deleted),
        segments=len(manifest.segments),
        terms=counts["terms"],
        postings=counts["postings"],
        bytes=total,
        bytes_by_kind=dict(sizes),
        bytes_per_passage=total / max(counts["passages"], 1),
        analyzer=manifest.analyzer,
        k1=manifest.k1,
        b=manifest.b,
        generation=manifest.generation,
    )
