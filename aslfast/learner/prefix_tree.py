"""Token streams laid out so that what several of them start with is there, and computed, once.

Sorted, each stream continues where it leaves the one before it: the order in which a depth-first walk meets the leaves
of the tree of all prefixes. A token's hidden state depends on its own past alone, so one copy serves every stream that
starts the same way, exactly, and the gradients of all of them meet in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

LEAST_SHARED = 16  # tokens; a shorter common prefix is not worth the longer list of keys


def common_prefix(one: Ints, other: Ints) -> int:
    """How many tokens both start with."""
    n = min(len(one), len(other))
    differs = np.flatnonzero(one[:n] != other[:n])
    return int(differs[0]) if len(differs) else n


@dataclass(frozen=True)
class PrefixTree:
    """Streams in depth-first order and, of each, how many tokens it shares with the one before it."""

    streams: tuple[Ints, ...]
    order: tuple[int, ...]  # the k-th leaf is stream order[k]
    shared: tuple[int, ...]  # by leaf; 0 where too few to be worth it

    @property
    def fresh(self) -> tuple[int, ...]:
        """Tokens of each leaf that no leaf before it has."""
        return tuple(len(self.streams[i]) - n for i, n in zip(self.order, self.shared, strict=True))

    def rows(self) -> list[Ints]:
        """By stream: where each of its tokens stands among the distinct ones."""
        rows, before, start = [np.empty(0, np.int64)] * len(self.streams), np.empty(0, np.int64), 0
        for i, shared, fresh in zip(self.order, self.shared, self.fresh, strict=True):
            before = np.concatenate([before[:shared], np.arange(start, start + fresh)])
            rows[i], start = before, start + fresh
        return rows

    def ends(self) -> Ints:
        """By distinct token: the first one after all that continue it, so that token q sees token k iff
        k <= q < ends[k]."""
        ends, before, start = np.full(sum(self.fresh), sum(self.fresh)), np.empty(0, np.int64), 0
        for shared, fresh in zip(self.shared, self.fresh, strict=True):
            ends[before[shared:]] = start
            before = np.concatenate([before[:shared], np.arange(start, start + fresh)])
            start += fresh
        return ends


def prefix_tree(streams: Sequence[Ints], share: bool = True) -> PrefixTree:
    """The tree of these streams; with `share` False every stream stands alone."""
    # big-endian bytes sort as the tokens do
    order = sorted(range(len(streams)), key=lambda i: (streams[i].astype(">u8").tobytes(), i))
    shared = [0] * len(order)
    for k in range(1, len(order)) if share else ():
        n = common_prefix(streams[order[k - 1]], streams[order[k]])
        shared[k] = n if n >= LEAST_SHARED else 0
    return PrefixTree(tuple(streams), tuple(order), tuple(shared))
