"""The C++ core (csrc/python/bindings.cpp). Use aslfast.index, which checks arguments and explains errors.

Raises OSError when the operating system refuses, ValueError ("file: what is wrong") for files that are damaged.
A segment is a folder with the files of csrc/storage/format.hpp.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

class Counts(TypedDict):
    """What one segment holds, deleted passages included."""

    passages: int
    terms: int
    windows: int
    postings: int
    tiled: int  # windows that have tiles
    big_counts: int  # postings whose count is 255 or more
    tokens: int  # terms of all passages, with repetition
    non_empty: int  # passages with at least one term

class LiveStatistics(TypedDict):
    """What an index holds: the first three of the live passages, the others as stored, over all segments."""

    passages: int
    tokens: int
    non_empty: int
    terms: int
    postings: int

class Deleted(TypedDict):
    """The deletions of one segment: a file (csrc/storage/deletions.hpp), and sums over the deleted passages."""

    file: str  # path
    checksum: int
    passages: int
    tokens: int
    non_empty: int

class SegmentSpec(TypedDict):
    """One segment as the core takes it."""

    folder: str
    counts: Counts
    checks: int  # checksum of checks.bin
    deleted: Deleted | None

def analyzers() -> list[str]:
    """Return the names of the analyzers."""

def analyze(text: str, analyzer: str) -> list[str]:
    """Return the terms of a text, in order. Raises ValueError for an unknown analyzer."""

def simd_names() -> list[str]:
    """Return the vector instruction sets that this machine has, best last."""

def use_simd(name: str) -> None:
    """Set the instruction set of the whole process, from the next search on; for tests. Raises ValueError."""

def checksum(path: str) -> int:
    """Return the checksum of a whole file."""

def segment_files() -> list[str]:
    """Return the names of the files of a segment, checks.bin last."""

class IndexBuilder:
    """A builder of one segment in `folder`, which exists and is empty; runs above `memory_bytes` go there too."""

    def __init__(self, folder: str, *, analyzer: str, k1: float, b: float, threads: int, memory_bytes: int) -> None: ...
    def add(self, ids: Sequence[str], contents: Sequence[str]) -> None:
        """Add passages. Raises UnicodeEncodeError for a lone surrogate."""

    def add_arrow(self, ids: object, contents: object) -> None:
        """Add passages from two pyarrow arrays (string or large_string, no nulls), without making Python strings.

        Raises ValueError where the bytes are not UTF-8.
        """

    def finish(self) -> Counts:
        """Write the files. Raises KeyError(id, first, second) for two passages with one id."""

def merge_segments(segments: list[SegmentSpec], folder: str, *, k1: float, b: float, threads: int) -> Counts:
    """Write the live passages of several segments, in their order, as one; the bytes are those of a build of them."""

def delete_passages(segment: SegmentSpec, docs: npt.NDArray[np.uint32], analyzer: str, file: str) -> Deleted:
    """Write the deletions of `segment`, these passages (numbers within it) added to them, to `file`."""

class Index:
    """Several segments searched as one: passage numbers run through them in order, statistics are of live passages.

    Opening reads the checksums alone; every page of a file is checked when it is first used (ValueError then).
    """

    def __init__(self, segments: list[SegmentSpec], *, analyzer: str, k1: float, b: float) -> None: ...
    def search(
        self,
        queries: list[str],
        k: int,
        *,
        threads: int,
        lucene: bool,
        allow: npt.NDArray[np.int32] | None,
        exhaustive: bool = False,
    ) -> tuple[list[list[str]], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Return ids, scores [Q, k] and passage numbers [Q, k] of the k best passages of each query.

        allow: numbers of the passages that may be found, in any order. exhaustive: score every passage, as a reference.
        """

    def find(self, ids: list[str]) -> npt.NDArray[np.int32]:
        """Return the number of each live passage, -1 for an id that is not there."""

    def ids(self, docs: npt.NDArray[np.int32]) -> list[str]:
        """Return the ids of these passages. Raises IndexError."""

    def contents(self, docs: npt.NDArray[np.int32]) -> list[str]:
        """Return the contents of these passages. Raises IndexError."""

    def statistics(self) -> LiveStatistics:
        """Return the counts over all segments."""

    def verify(self) -> None:
        """Check every page of every file. Raises ValueError, OSError."""
