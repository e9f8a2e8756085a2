"""The token sequences that a sampler has computed, and the longest prefix that a new one shares with any of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

MAX_TOKENS = 2**24  # that are kept: 64 MB; the oldest sessions are dropped first


class PrefixIndex:
    """One sequence a session, sorted: of all sequences, a neighbour in order shares the longest prefix.

    As big-endian bytes, sequences sort like their tokens, at four bytes a token.
    """

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self._max_bytes = 4 * max_tokens
        self._n_bytes = 0
        self._of_session: dict[str, bytes] = {}  # the oldest first
        self._sorted: list[bytes] = []

    def put(self, session: str, token_ids: Sequence[int]) -> None:
        """Replace the session's sequence: its contexts extend one another."""
        self._remove(session)
        sequence = _to_bytes(token_ids)
        self._of_session[session] = sequence
        self._n_bytes += len(sequence)
        insort(self._sorted, sequence)
        while self._n_bytes > self._max_bytes:
            self._remove(next(iter(self._of_session)))

    def longest(self, session: str, token_ids: Sequence[int]) -> tuple[int, int]:
        """Return the length of the longest common prefix [tokens] with any sequence, and with the session's own."""
        wanted = _to_bytes(token_ids)
        at = bisect_left(self._sorted, wanted)
        neighbours = self._sorted[max(0, at - 1) : at + 1]
        own = self._of_session.get(session, b"")
        return max((_common_tokens(wanted, other) for other in neighbours), default=0), _common_tokens(wanted, own)

    def _remove(self, session: str) -> None:
        sequence = self._of_session.pop(session, None)
        if sequence is not None:
            self._n_bytes -= len(sequence)
            del self._sorted[bisect_left(self._sorted, sequence)]


def _to_bytes(token_ids: Sequence[int]) -> bytes:
    return np.asarray(array("I", token_ids)).astype(">u4").tobytes()


def _common_tokens(left: bytes, right: bytes) -> int:
    """Return the length of the longest common prefix [tokens]."""
    n = min(len(left), len(right)) // 4
    differ = np.frombuffer(left, ">u4", n) != np.frombuffer(right, ">u4", n)
    return int(differ.argmax()) if differ.any() else n
