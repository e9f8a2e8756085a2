"""Token streams deduplicated by their prefixes: what several of them start with is stored, and computed, once.

In sorted order each stream continues where it diverges from the one before it: the order in which a depth-first walk
visits the leaves of the prefix tree. A token's hidden state depends on its own past alone, so one copy serves every
stream with the same prefix, exactly, and their gradients add up in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MIN_SHARED_TOKENS = 16  # a shorter common prefix is not worth the longer list of keys


def common_prefix(first: Ints, second: Ints) -> int:
    """Return the length of the longest common prefix."""
    n = min(len(first), len(second))
    differs = np.flatnonzero(first[:n] != second[:n])
    return int(differs[0]) if len(differs) else n


@dataclass(frozen=True)
class PrefixTree:
    """Streams in depth-first order, each with the number of tokens that it shares with the one before it."""

    streams: tuple[Ints, ...]
    order: tuple[int, ...]  # the k-th leaf is stream order[k]
    shared: tuple[int, ...]  # by leaf; 0 where too few to be worthwhile

    @property
    def fresh(self) -> tuple[int, ...]:
        """By leaf: the number of tokens that no leaf before it has."""
        return tuple(len(self.streams[i]) - n for i, n in zip(self.order, self.shared, strict=True))

    def stream_indices(self) -> list[Ints]:
        """Return, by stream, the index of each of its tokens among the distinct ones."""
        indices, path, start = [np.empty(0, np.int64)] * len(self.streams), np.empty(0, np.int64), 0
        for i, shared, fresh in zip(self.order, self.shared, self.fresh, strict=True):
            path = np.concatenate([path[:shared], np.arange(start, start + fresh)])
            indices[i], start = path, start + fresh
        return indices

    def subtree_ends(self) -> Ints:
        """Return, by distinct token, the end of its subtree: token q has k in its past iff k <= q < ends[k]."""
        ends, path, start = np.full(sum(self.fresh), sum(self.fresh)), np.empty(0, np.int64), 0
        for shared, fresh in zip(self.shared, self.fresh, strict=True):
            ends[path[shared:]] = start
            path = np.concatenate([path[:shared], np.arange(start, start + fresh)])
            start += fresh
        return ends


def prefix_tree(streams: Sequence[Ints], share: bool = True) -> PrefixTree:
    """Return the prefix tree of the streams; with `share` False no stream shares a token."""
    # big-endian bytes sort as the tokens do
    order = sorted(range(len(streams)), key=lambda i: (streams[i].astype(">u8").tobytes(), i))
    shared = [0] * len(order)
    for k in range(1, len(order)) if share else ():
        n = common_prefix(streams[order[k - 1]], streams[order[k]])
        shared[k] = n if n >= MIN_SHARED_TOKENS else 0
    return PrefixTree(tuple(streams), tuple(order), tuple(shared))
