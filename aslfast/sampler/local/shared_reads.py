"""Decode steps that read what several sequences begin with once.

The attention of one new token over its context S is that over the common prefix P and over the sequence's own tail,
merged by their normalisers (arXiv 2402.05099, section 3.2):

    o = (1 - w) o_tail + w o_P,   w = sigmoid(lse_P - lse_tail),   lse = log sum exp(scale q k)

The queries of all sequences of a group are one matrix product against the prefix's keys, and one against its values,
which are read from the slot of one of them. Tails are kept a second time, sequence beside sequence, so that one batched
product reads them all; they take at most as much memory again as the slots.

Results are those of `grouped_attention` to rounding: against float64 a log-prob is off by at most twice what a plain
forward pass is (tests/sampler/test_shared_reads.py). As in any batch, last bits depend on the neighbours: here on which
sequences share how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from aslfast.sampler.local.running_request import Row
from aslfast.sampler.prefix_index import common_prefix

MIN_SAVED = 0.25  # of all positions: below, one plain call reads them faster
MIN_QUERY_WIDTH = 256  # heads * head dim: the calls of a narrower model cost more than what they read
INITIAL_TAIL = 64


@dataclass(frozen=True)
class SharedGroup:
    """Sequences, by their rows in the batch, that share their first n_shared tokens."""

    n_shared: int
    rows: tuple[int, ...]


def groups_of(runs: Sequence[Row]) -> list[SharedGroup]:
    """Return the groups, of one sequence or more, that share at least half of the longer of two neighbours.

    In order of their tokens, a sequence shares its longest prefix with a neighbour. All but the last token, whose keys
    and values are still to be computed, can be shared.
    """
    order = sorted(range(len(runs)), key=lambda i: (runs[i].adapter or "", runs[i].ids))
    groups: list[SharedGroup] = []
    rows: list[int] = []
    n_group = 0
    for i in order:
        n_shared = _shared(runs[rows[-1]], runs[i]) if rows else 0
        if rows and 2 * n_shared >= max(runs[rows[-1]].n_kv, runs[i].n_kv):
            rows, n_group = [*rows, i], min(n_group, n_shared)
            continue
        groups += [SharedGroup(n_group, tuple(rows))] if rows else []
        rows, n_group = [i], runs[i].n_kv
    return [*groups, SharedGroup(n_group, tuple(rows))]


def _shared(first: Row, second: Row) -> int:
    if first.adapter != second.adapter:
        return 0
    return min(common_prefix(first.ids, second.ids), first.n_kv, second.n_kv)


def saves_enough(groups: Sequence[SharedGroup], runs: Sequence[Row]) -> bool:
    """Return whether reading prefixes once spares MIN_SAVED of the positions."""
    saved = sum((len(group.rows) - 1) * group.n_shared for group in groups)
    return saved >= MIN_SAVED * sum(run.n_kv for run in runs)


class SharedReads:
    """The groups of a batch whose rows are slots 0, 1, ..., their tails, and the attention over both.

    The batch may lose sequences from step to step (`keep`); a new one needs new SharedReads.
    """

    def __init__(self, kv_L2RHSD: torch.Tensor, runs: Sequence[Row], groups: Sequence[SharedGroup]) -> None:
        self.runs = list(runs)
        self._group_of = {run: number for number, group in enumerate(groups) for run in (runs[i] for i in group.rows)}
        self._n_shared = [group.n_shared for group in groups]
        n_layers, _, _, n_heads, _, head_dim = kv_L2RHSD.shape
        n_tail = max(INITIAL_TAIL, max(run.n_kv - self._first(run) for run in runs) + 1)
        self._tail_L2RHSD = kv_L2RHSD.new_zeros((n_layers, 2, len(runs), n_heads, n_tail, head_dim))
        for row, run in enumerate(runs):
            first = self._first(run)
            self._tail_L2RHSD[:, :, row, :, : run.n_kv - first] = kv_L2RHSD[:, :, row, :, first : run.n_kv]
        self._prepared: tuple[int, int] | None = None

    def _first(self, run: Row) -> int:
        """Return the position of the first token of a sequence's tail."""
        return self._n_shared[self._group_of[run]]

    def _reserve(self, n_positions: int) -> None:
        """Grow the tails to at least so many positions, by doubling."""
        old, n_old = self._tail_L2RHSD, self._tail_L2RHSD.shape[4]
        if n_positions > n_old:
            shape = (*old.shape[:4], max(n_positions, 2 * n_old), old.shape[5])
            self._tail_L2RHSD = old.new_zeros(shape)
            self._tail_L2RHSD[:, :, :, :, :n_old] = old

    def keep(self, runs: Sequence[Row]) -> bool:
        """Follow the slots after sequences have ended: the last fill the gaps. Return False if there are new ones."""
        if self.runs == runs:
            return True
        row_of = {run: row for row, run in enumerate(self.runs)}
        if not all(run in row_of for run in runs):
            return False
        for row, run in enumerate(runs):
            if row_of[run] != row:
                self._tail_L2RHSD[:, :, row] = self._tail_L2RHSD[:, :, row_of[run]]
        self.runs, self._prepared = list(runs), None
        return True

    def prepare(self, kv_L2RHSD: torch.Tensor) -> torch.Tensor:
        """Get ready for the next token of every sequence; return the mask of the tails [B, 1, 1, S]."""
        lengths = [run.n_kv - self._first(run) for run in self.runs]
        self._reserve(max(lengths) + 1)
        if self._prepared != (kv_L2RHSD.data_ptr(), self._tail_L2RHSD.data_ptr()):
            self._read_groups(kv_L2RHSD)
        n_tail, n_rows = max(lengths) + 1, len(self.runs)
        window = self._tail_L2RHSD[:, :, :n_rows, :, :n_tail].flatten(2, 3)
        self._tails = [(layer[0], layer[1]) for layer in window.unbind(0)]  # [B*H, S, D]
        length_B = torch.tensor(lengths, device=kv_L2RHSD.device)
        n_heads, n_held = self._tail_L2RHSD.shape[3:5]
        row_H = torch.arange(n_rows * n_heads, device=kv_L2RHSD.device)
        self._write = row_H * n_held + length_B.repeat_interleave(n_heads)
        hidden_BS = torch.arange(n_tail, device=kv_L2RHSD.device) > length_B[:, None]
        mask_BS = torch.zeros_like(hidden_BS, dtype=kv_L2RHSD.dtype).masked_fill_(hidden_BS, -torch.inf)
        return mask_BS[:, None, None]

    def _read_groups(self, kv_L2RHSD: torch.Tensor) -> None:
        """Set which slots the prefixes are read from, and the order of the rows by group."""
        rows: list[list[int]] = [[] for _ in self._n_shared]
        for row, run in enumerate(self.runs):
            rows[self._group_of[run]].append(row)
        used = [(n, of_group) for n, of_group in zip(self._n_shared, rows, strict=True) if of_group]
        self._sizes = [len(of_group) for _, of_group in used]
        order = torch.tensor([row for _, of_group in used for row in of_group], device=kv_L2RHSD.device)
        self._order, self._inverse = order, order.argsort()
        prefixes = [kv_L2RHSD[:, :, of_group[0], :, :n] for n, of_group in used]
        self._prefixes = [
            [(prefix[layer, 0].transpose(1, 2), prefix[layer, 1]) for prefix in prefixes]
            for layer in range(kv_L2RHSD.shape[0])
        ]  # by layer and group: keys [H, D, S], values [H, S, D]
        self._flat = [[side.view(-1, side.shape[-1]) for side in layer] for layer in self._tail_L2RHSD]
        self._prepared = (kv_L2RHSD.data_ptr(), self._tail_L2RHSD.data_ptr())

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values [B, H, 1, D]; return all tails [B*H, S, D]."""
        for flat, new in zip(self._flat[layer], (key, value), strict=True):
            flat.index_copy_(0, self._write, new.flatten(0, 2))
        self._layer = layer
        return self._tails[layer]

    def attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Compute attention over prefixes and tails. query [B, H*G, 1, D]; return [B, 1, H*G, D]."""
        n_rows, n_query_heads, _, head_dim = query.shape
        n_heads = key.shape[0] // n_rows
        query_BHGD = query.reshape(n_rows, n_heads, -1, head_dim) * scale
        scores = torch.bmm(query_BHGD.flatten(0, 1), key.transpose(1, 2)).view(n_rows, n_query_heads, -1)
        scores += mask[:, 0]
        tail, tail_lse = _attend(scores.view(n_rows * n_heads, -1, key.shape[1]), value)
        prefix, prefix_lse = self._over_prefixes(query_BHGD)
        weight = torch.sigmoid(prefix_lse - tail_lse.view_as(prefix_lse))
        out = torch.lerp(tail.view_as(prefix), prefix, weight[..., None])
        return out.view(n_rows, 1, n_query_heads, head_dim)

    def _over_prefixes(self, query_BHGD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the attention over the prefixes [B, H, G, D] and the logarithm of its normaliser [B, H, G]."""
        n_rows, n_heads, n_groups, head_dim = query_BHGD.shape
        by_group = query_BHGD.index_select(0, self._order).transpose(0, 1).flatten(1, 2)  # [H, B*G, D]
        parts = by_group.split([size * n_groups for size in self._sizes], 1)
        found = [_attend(q @ k, v) for q, (k, v) in zip(parts, self._prefixes[self._layer], strict=True)]
        out = torch.cat([part for part, _ in found], 1).view(n_heads, n_rows, n_groups, head_dim)
        lse = torch.cat([part for _, part in found], 1).view(n_heads, n_rows, n_groups)
        return out.transpose(0, 1).index_select(0, self._inverse), lse.transpose(0, 1).index_select(0, self._inverse)


def _attend(scores: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return softmax(scores) @ value and the logarithm of the softmax's normaliser.

    The largest probability is exp(largest score - lse): this spares a second pass of exponentials.
    """
    prob = scores.softmax(-1)
    return prob @ value, scores.amax(-1) - prob.amax(-1).log()


_reading: SharedReads | None = None  # of the forward pass that runs: attention is given tensors, and no cache


@contextmanager
def reading(reads: SharedReads) -> Iterator[None]:
    """Let attention read by these groups in one forward pass."""
    global _reading
    _reading = reads
    try:
        yield
    finally:
        _reading = None


def current_reads() -> SharedReads | None:
    """Return the groups of the forward pass that runs."""
    return _reading
