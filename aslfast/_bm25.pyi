"""The C++ core (csrc/bindings.cpp). Use aslfast.index, which checks arguments and explains errors.

Raises OSError when the system refuses, ValueError ("file: what is wrong") for files that are not as they were written.
"""

import numpy as np
import numpy.typing as npt

def analyze(text: str) -> list[str]: ...
def file_names() -> list[str]: ...
def checksum(path: str) -> int: ...

class IndexBuilder:
    def __init__(self, folder: str, threads: int) -> None: ...
    def add(self, ids: list[str], contents: list[str]) -> None:
        """Raises UnicodeEncodeError for a lone surrogate."""

    def finish(self) -> dict[str, int]:
        """Writes the files. Raises KeyError(id, first, second) for two passages of one id."""

class Index:
    def __init__(self, folder: str, counts: dict[str, int], checksums: list[int]) -> None: ...
    def search(
        self, queries: list[str], k: int, k1: float, b: float, threads: int
    ) -> tuple[list[list[str]], npt.NDArray[np.float32], npt.NDArray[np.int32]]: ...
    def passages(self, ids: list[str]) -> list[tuple[str, str] | None]: ...
