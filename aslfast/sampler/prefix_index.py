"""Token sequences by key, and the longest prefix that a new one shares with any of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

Key = TypeVar("Key", int, str)
MAX_TOKENS = 2**24  # that are kept: 64 MB; the oldest are dropped first


class PrefixIndex(Generic[Key]):
    """One sequence a key (a session, a slot), sorted: of all sequences, a neighbour in order shares the longest prefix.

    It finds what a radix tree finds, in one list. As big-endian bytes, sequences sort like their tokens, at four bytes
    a token.
    """

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self._max_bytes = 4 * max_tokens
        self._n_bytes = 0
        self._of_key: dict[Key, bytes] = {}  # the oldest first
        self._sorted: list[tuple[bytes, Key]] = []

    def put(self, key: Key, token_ids: Sequence[int]) -> None:
        """Replace the key's sequence."""
        self.remove(key)
        sequence = _to_bytes(token_ids)
        self._of_key[key] = sequence
        self._n_bytes += len(sequence)
        insort(self._sorted, (sequence, key))
        while self._n_bytes > self._max_bytes:
            self.remove(next(iter(self._of_key)))

    def remove(self, key: Key) -> None:
        """Forget the key's sequence, if it has one."""
        sequence = self._of_key.pop(key, None)
        if sequence is not None:
            self._n_bytes -= len(sequence)
            del self._sorted[bisect_left(self._sorted, (sequence, key))]

    def longest(self, token_ids: Sequence[int]) -> tuple[int, Key | None]:
        """Return the length of the longest common prefix [tokens] with any sequence, and that one's key."""
        wanted = _to_bytes(token_ids)
        at = bisect_left(self._sorted, wanted, key=_sequence)
        neighbours = self._sorted[max(0, at - 1) : at + 1]
        shared = [(_common_tokens(wanted, other), key) for other, key in neighbours]
        return max(shared, key=_length, default=(0, None))

    def own(self, key: Key, token_ids: Sequence[int]) -> int:
        """Return the length of the longest common prefix [tokens] with the key's own sequence."""
        return _common_tokens(_to_bytes(token_ids), self._of_key.get(key, b""))


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the longest common prefix [tokens]."""
    return _common_tokens(_to_bytes(first), _to_bytes(second))


def _sequence(entry: tuple[bytes, object]) -> bytes:
    return entry[0]


def _length(found: tuple[int, object]) -> int:
    return found[0]


def _to_bytes(token_ids: Sequence[int]) -> bytes:
    return np.asarray(array("I", token_ids)).astype(">u4").tobytes()


def _common_tokens(left: bytes, right: bytes) -> int:
    """Return the length of the longest common prefix [tokens]."""
    n = min(len(left), len(right)) // 4
    differ = np.frombuffer(left, ">u4", n) != np.frombuffer(right, ">u4", n)
    return int(differ.argmax()) if differ.any() else n
