"""`aslfast index`: build, search and change an index. Every function returns an outcome to print as text or JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from aslfast.cli.progress import Meter, printable
from aslfast.errors import UserError
from aslfast.files.text import read_text
from aslfast.index.bm25 import BM25Index
from aslfast.index.options import MEMORY_MB, Effort, Similarity, check_scores
from aslfast.index.stats import IndexStatistics

SAMPLE_LINES = 1000  # of a JSONL file, to estimate how many it has


class Outcome(Protocol):
    """The result of a command."""

    def fields(self) -> dict[str, object]:
        """Return the JSON object that the command prints with --json."""
        ...

    def text(self) -> str:
        """Return what the command prints otherwise."""
        ...


@dataclass(frozen=True, slots=True)
class Built:
    """A new index."""

    out: str
    statistics: IndexStatistics
    seconds: float

    @property
    def passages_per_s(self) -> float:
        return self.statistics.passages / self.seconds

    def fields(self) -> dict[str, object]:
        speed = {"seconds": self.seconds, "passages_per_s": self.passages_per_s}
        return {"out": self.out, **asdict(self.statistics), **speed}

    def text(self) -> str:
        s = self.statistics
        return (
            f"{self.out}: {s.passages:,} passages, {s.terms:,} terms, {s.bytes / 1e6:,.1f} MB, "
            f"{self.seconds:.1f} s ({self.passages_per_s:,.0f} passages/s)"
        )


@dataclass(frozen=True, slots=True)
class ShownHit:
    """One passage found."""

    rank: int
    id: str
    score: float
    title: str
    contents: str

    def text(self) -> str:
        body = self.contents.partition("\n")[2] or self.contents
        place = f"(id {self.id}, score {self.score:.3f})"
        return printable(f"{self.rank}. {self.title or self.id}  {place}\n   {' '.join(body.split())}")


@dataclass(frozen=True, slots=True)
class Found:
    """The best passages for a query."""

    query: str
    hits: list[ShownHit]

    def fields(self) -> dict[str, object]:
        return asdict(self)

    def text(self) -> str:
        return "\n".join(hit.text() for hit in self.hits) or "nothing found"


@dataclass(frozen=True, slots=True)
class Info:
    """What an index holds and how large it is."""

    index: str
    statistics: IndexStatistics

    def fields(self) -> dict[str, object]:
        return {"index": self.index, **asdict(self.statistics)}

    def text(self) -> str:
        s = self.statistics
        lines = [
            f"{self.index}: {s.passages:,} passages in {s.segments} segments, {s.deleted:,} deleted, "
            f"generation {s.generation}",
            f"analyzer {s.analyzer}, k1 {s.k1:g}, b {s.b:g}",
            f"{s.terms:,} terms, {s.postings:,} postings, {s.tokens:,} tokens",
            f"{s.bytes / 1e6:,.1f} MB, {s.bytes_per_passage:,.0f} bytes a passage",
        ]
        return "\n".join([*lines, *(f"  {kind:<9} {n / 1e6:>12,.1f} MB" for kind, n in s.bytes_by_kind.items())])


@dataclass(frozen=True, slots=True)
class Verified:
    """An index after a check of every byte."""

    index: str
    passages: int
    bytes: int
    seconds: float

    def fields(self) -> dict[str, object]:
        return asdict(self)

    def text(self) -> str:
        return f"{self.index}: intact; {self.passages:,} passages, {self.bytes / 1e6:,.1f} MB in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Changed:
    """An index after a change: `count` passages (segments, in a merge) were `change`d."""

    index: str
    change: str  # added, deleted or merged
    count: int
    statistics: IndexStatistics

    def fields(self) -> dict[str, object]:
        s = self.statistics
        now = {"passages": s.passages, "segments": s.segments, "generation": s.generation}
        return {"index": self.index, self.change: self.count, **now}

    def text(self) -> str:
        done = f"{self.count:,} {'segments' if self.change == 'merged' else 'passages'} {self.change}"
        return f"{self.index}: {done}; now {self.statistics.passages:,} passages, segments: {self.statistics.segments}"


def effort(threads: int | None, memory_mb: int | None) -> Effort:
    """Return the resources that the options ask for. Raise UserError."""
    return Effort(threads or 0, memory_mb or MEMORY_MB)


def build(corpus: Sequence[Path], out: Path, similarity: Similarity, effort: Effort, quiet: bool) -> Built:
    """Build an index of corpus files. Raise UserError."""
    started = time.perf_counter()
    with Meter("index", expected_passages(corpus), "passages", quiet) as meter:
        settings = {**asdict(similarity), **asdict(effort)}
        index = BM25Index.build(corpus, out, progress=meter.move_to, **settings)
    return Built(str(out), index.statistics(), time.perf_counter() - started)


def expected_passages(corpus: Sequence[Path]) -> float | None:
    """Estimate the number of passages, for the time left: exact for Parquet; None if a file is not readable."""
    try:
        return sum(_expected(file) for file in corpus)
    except (OSError, ValueError):  # the reader says what is wrong, and where
        return None


def search(folder: Path, query: str, k: int, scores: str) -> Found:
    """Find the best passages for a query. Raise UserError."""
    index = BM25Index.open(folder)
    found = index.search([query], k, scores=check_scores(scores))
    passages = index.passages(found.ids[0])
    ranked = enumerate(zip(passages, found.scores[0].tolist(), strict=False), 1)
    return Found(query, [ShownHit(rank, p.id, score, p.title, p.contents) for rank, (p, score) in ranked])


def info(folder: Path) -> Info:
    """Return what an index holds. Raise UserError."""
    return Info(str(folder), BM25Index.open(folder).statistics())


def verify(folder: Path) -> Verified:
    """Check every byte of an index. Raise UserError."""
    started = time.perf_counter()
    index = BM25Index.open(folder)
    index.verify()
    statistics = index.statistics()
    return Verified(str(folder), statistics.passages, statistics.bytes, time.perf_counter() - started)


def add(folder: Path, corpus: Sequence[Path], effort: Effort, quiet: bool) -> Changed:
    """Add the passages of corpus files. Raise UserError."""
    index = BM25Index.open(folder)
    with Meter("add", expected_passages(corpus), "passages", quiet) as meter:
        added = index.add(corpus, progress=meter.move_to, **asdict(effort))
    return Changed(str(folder), "added", added, index.statistics())


def delete(folder: Path, ids: Sequence[str], ids_from: Path | None) -> Changed:
    """Delete the passages of these ids, and of those in a file. Raise UserError."""
    index = BM25Index.open(folder)
    deleted = index.delete([*ids, *(_read_ids(ids_from) if ids_from else [])])
    return Changed(str(folder), "deleted", deleted, index.statistics())


def merge(folder: Path, threads: int) -> Changed:
    """Merge all segments into one. Raise UserError."""
    index = BM25Index.open(folder)
    before = index.statistics().segments
    index.merge(threads=threads)
    return Changed(str(folder), "merged", before, index.statistics())


def _expected(file: Path) -> float:
    """Return the rows of a Parquet file; estimate the lines of another file by the mean length of its first ones."""
    if file.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_metadata(file).num_rows
    with file.open("rb") as lines:
        lengths = [len(line) for line in islice(lines, SAMPLE_LINES)]
    return file.stat().st_size * len(lengths) / max(sum(lengths), 1)


def _read_ids(file: Path) -> list[str]:
    try:
        return [line for line in read_text(file).split("\n") if line]
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; name a text file with an id in each line") from error
