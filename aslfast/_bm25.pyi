"""The C++ core (csrc/python/bindings.cpp). Use aslfast.index, which checks arguments and explains errors.

Raises OSError when the system refuses, ValueError ("file: what is wrong") for files that are not as they were written.
A segment is a folder with the files of csrc/storage/format.hpp; its counts are
{"passages", "terms", "windows", "postings", "tiled", "big_counts", "tokens", "non_empty"}.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

class Deleted(TypedDict):
    """What is deleted of one segment: a file (csrc/storage/deletions.hpp) and the sums over the deleted passages."""

    file: str  # path
    checksum: int
    passages: int
    tokens: int
    non_empty: int

class SegmentSpec(TypedDict):
    folder: str
    counts: dict[str, int]
    checks: int  # checksum of checks.bin
    deleted: Deleted | None

def analyzers() -> list[str]: ...
def analyze(text: str, analyzer: str) -> list[str]: ...
def simd_names() -> list[str]:
    """The vector instructions this machine can use, best last."""

def use_simd(name: str) -> None:
    """For the whole process, from the next search on; for tests. Raises ValueError for what the machine lacks."""

def checksum(path: str) -> int:
    """Of a whole file."""

def segment_files() -> list[str]:
    """The names of the files of a segment, checks.bin last."""

class IndexBuilder:
    """Writes one segment into `folder`, which exists and is empty (runs that exceed `memory_bytes` go there too)."""

    def __init__(self, folder: str, *, analyzer: str, k1: float, b: float, threads: int, memory_bytes: int) -> None: ...
    def add(self, ids: Sequence[str], contents: Sequence[str]) -> None:
        """Raises UnicodeEncodeError for a lone surrogate."""

    def add_arrow(self, ids: object, contents: object) -> None:
        """The same from two pyarrow arrays (string or large_string, no nulls), without making Python strings.

        Raises ValueError where the bytes are not UTF-8.
        """

    def finish(self) -> dict[str, int]:
        """Writes the files. Raises KeyError(id, first, second) for two passages of one id."""

def merge_segments(segments: list[SegmentSpec], folder: str, *, k1: float, b: float, threads: int) -> dict[str, int]:
    """Writes one segment of what is not deleted in several, in their order; the same bytes as building it anew."""

def delete_passages(segment: SegmentSpec, docs: npt.NDArray[np.uint32], analyzer: str, file: str) -> Deleted:
    """Writes to `file` what `segment` has deleted so far and these passages (numbers within the segment)."""

class Index:
    """Several segments searched as one: passage numbers run through them in order, statistics are of all that is live.

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
        """allow: numbers of the passages that may be found, in any order. exhaustive: scores all, to compare."""

    def find(self, ids: list[str]) -> npt.NDArray[np.int32]:
        """The number of each live passage, -1 for an id that is not there."""

    def ids(self, docs: npt.NDArray[np.int32]) -> list[str]: ...
    def contents(self, docs: npt.NDArray[np.int32]) -> list[str]: ...
    def statistics(self) -> dict[str, int]:
        """passages, tokens, non_empty of what is live; terms, postings as stored, segment by segment."""

    def verify(self) -> None:
        """Checks every page of every file. Raises ValueError, OSError."""
