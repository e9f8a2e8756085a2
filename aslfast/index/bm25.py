"""BM25 search over a corpus: an index in one folder, built in C++, memory-mapped, shared by all processes of a machine.

Exact BM25 as in Lucene 9; the formula is in csrc/search/scoring.hpp. By default we differ from Lucene in keeping the
lengths of passages exact, where it rounds them to one byte: scores="lucene" rounds them too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from aslfast import _bm25
from aslfast.data.corpus import Passage
from aslfast.data.corpus_batches import AnySource, open_source
from aslfast.index.build import Progress, build_index
from aslfast.index.options import (
    MEMORY_MB,
    Effort,
    Scores,
    Similarity,
    as_texts,
    check_analyzer,
    check_hits,
    check_scores,
    n_threads,
)
from aslfast.index.snapshot import explain_reading, open_snapshot
from aslfast.index.stats import IndexStatistics, statistics_of
from aslfast.index.update import add_passages, delete_ids, find_docs, merge_all


def analyze(text: str, analyzer: str = "english") -> list[str]:
    """Return the terms of a text, in order. Raises UserError for an unknown analyzer."""
    check_analyzer(analyzer)
    return _bm25.analyze(as_texts([text], "text")[0], analyzer)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of Q queries, best first, ties in the order of the passages. Unpacks as a pair: `ids, scores = result`.

    Where fewer than k passages match, the row of `ids` is shorter, and the arrays end in score 0 and doc -1.
    """

    ids: list[list[str]]
    scores: npt.NDArray[np.float32]  # [Q, k]
    docs: npt.NDArray[np.int32]  # [Q, k], passage numbers; those of deleted passages stay unused until a merge

    def __iter__(self) -> Iterator[Any]:
        return iter((self.ids, self.scores))


class BM25Index:
    """An open index, made by `build` or `open`.

    Searching is safe under threads and after a fork, releases the GIL, and takes no lock. An open index keeps its
    generation while other processes write, until it is changed itself; a change starts from the newest. One writer at a
    time may change an index; a second one gets a UserError.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._snapshot = open_snapshot(self.path)
        self._allow_changes()
        _OPEN.add(self)

    @classmethod
    def build(  # more than six parameters: the options of a public function, by keyword
        cls,
        source: AnySource,
        out: str | Path,
        *,
        k1: float = 0.9,
        b: float = 0.4,
        analyzer: str = "english",
        threads: int = 0,
        memory_mb: int = MEMORY_MB,
        progress: Progress | None = None,
    ) -> BM25Index:
        """Index corpus files, or an iterable of passages, into the new folder `out` and open it.

        `threads` 0 means all cores; `memory_mb` bounds the postings held in memory, not what is mapped; `progress` is
        called with the number of passages done so far. `out` appears complete or not at all. Raises UserError.
        """
        folder = Path(os.path.abspath(out))
        similarity, effort = Similarity(analyzer, float(k1), float(b)), Effort(threads, memory_mb)
        build_index(open_source(source), folder, similarity, effort, progress)
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | Path) -> BM25Index:
        """Map an index into memory; every page is checked when it is first used. Raises UserError."""
        return cls(path)

    @property
    def generation(self) -> int:
        """The number of changes of the index up to the generation that is open here, its build included."""
        return self._snapshot.manifest.generation

    @property
    def similarity(self) -> Similarity:
        """The index's analyzer, k1 and b."""
        manifest = self._snapshot.manifest
        return Similarity(manifest.analyzer, manifest.k1, manifest.b)

    def __len__(self) -> int:
        return sum(segment.live for segment in self._snapshot.manifest.segments)

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        threads: int = 0,
        scores: Scores = "exact",
        allow: Iterable[str] | None = None,
    ) -> SearchResult:
        """Return the k best passages for each query; `threads` 0 means all cores.

        With `allow`, ids of passages, only these are found; scores do not change. Raises UserError for k < 1 or
        k > limits.MOST_HITS, an id that is not there, or a damaged page.
        """
        check_hits(k)
        check_scores(scores)
        texts, core = as_texts(queries, "queries"), self._snapshot.core
        with explain_reading(self.path):
            docs = None if allow is None else find_docs(self.path, core, as_texts(allow, "allow"))
            found = core.search(texts, k, threads=n_threads(threads), lucene=scores == "lucene", allow=docs)
        return SearchResult(*found)

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Return the passages of these ids, in this order. Raises UserError for an id that is not there."""
        texts, core = as_texts(ids, "ids"), self._snapshot.core
        with explain_reading(self.path):
            contents = core.contents(find_docs(self.path, core, texts))
        return [Passage(*pair) for pair in zip(texts, contents, strict=True)]

    def add(
        self,
        source: AnySource,
        *,
        threads: int = 0,
        memory_mb: int = MEMORY_MB,
        progress: Progress | None = None,
    ) -> int:
        """Append passages, all or none; return how many. Raises UserError, also for an id that is there already.

        They become a segment of their own. With more than eight segments the newest are merged, which renumbers their
        passages if some were deleted.
        """
        effort = Effort(threads, memory_mb)
        with self._changing:
            added = add_passages(self.path, open_source(source), effort, progress)
            self._snapshot = open_snapshot(self.path)
        return added

    def delete(self, ids: Iterable[str]) -> int:
        """Delete passages, all or none; return how many. Raises UserError for an id that is not there.

        Scores are at once those of an index without them. Their numbers and their space stay in use until `merge`.
        """
        with self._changing:
            deleted = delete_ids(self.path, as_texts(ids, "ids"))
            self._snapshot = open_snapshot(self.path)
        return deleted

    def merge(self, *, threads: int = 0) -> None:
        """Merge all segments into one: the index that a build of the live passages makes, with new numbers."""
        with self._changing:
            merge_all(self.path, threads)
            self._snapshot = open_snapshot(self.path)

    def verify(self) -> None:
        """Read and check every page of every file. Raises UserError for the first that is damaged."""
        with explain_reading(self.path):
            self._snapshot.core.verify()

    def statistics(self) -> IndexStatistics:
        """Return counts and sizes of the open generation."""
        return statistics_of(self._snapshot)

    def _allow_changes(self) -> None:
        """Make the lock of changes by threads of this object; other objects and processes use the folder's lock."""
        self._changing = Lock()


def _after_fork() -> None:
    """Replace the locks in a forked child: one that another thread held would stay locked there for ever."""
    for index in _OPEN:
        index._allow_changes()


_OPEN: WeakSet[BM25Index] = WeakSet()
os.register_at_fork(after_in_child=_after_fork)
