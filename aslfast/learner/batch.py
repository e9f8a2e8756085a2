"""Trajectories and advantages -> batches: flat, packed, shifted. The one place where masks are built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from aslfast.core import StopReason, Task, Trajectory
from aslfast.learner.packing import packs, pays
from aslfast.learner.prefix_tree import Ints, PrefixTree, prefix_tree


@dataclass(frozen=True)
class Segments:
    """Who looks at whom. A segment is a run of consecutive tokens of the flat stream, in its order: those that one
    trajectory adds to what is there already. Its keys are that trajectory whole, so the last `query_lengths[i]` of its
    `key_lengths[i]` keys are the segment itself, and a token sees the keys up to its own.

    The same said of tokens: q sees k iff k <= q < end_T[k].
    """

    query_lengths: tuple[int, ...]  # they add up to T
    key_lengths: tuple[int, ...]
    key_K: Tensor  # the keys of all segments, one after the other: places in the flat stream
    end_T: Tensor

    @property
    def shared(self) -> bool:
        """Whether some token is a key of more than one segment."""
        return len(self.key_K) > len(self.end_T)

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that it sees."""
        return sum(q * k - q * (q - 1) // 2 for q, k in zip(self.query_lengths, self.key_lengths, strict=True))


@dataclass(frozen=True)
class Batch:
    """Trajectories in one flat stream of T tokens, in which a prefix that several share stands once.

    L counts the live targets, the tokens that the model sampled: the hidden state of token `source_L` predicts
    `target_L`, in the trajectory `sequence_L` (0..S-1, in the order given).
    """

    input_T: Tensor
    position_T: Tensor  # in its trajectory
    segments: Segments
    source_L: Tensor
    target_L: Tensor
    sampler_logp_L: Tensor
    sequence_L: Tensor
    advantage_S: Tensor
    unshared_tokens: int  # that the flat stream would have without sharing

    def __post_init__(self) -> None:
        live, n_tokens = (self.source_L, self.target_L, self.sampler_logp_L, self.sequence_L), len(self.input_T)
        flat = (self.position_T, self.segments.end_T)
        if len({len(x) for x in live}) > 1 or {len(x) for x in flat} | {sum(self.segments.query_lengths)} != {n_tokens}:
            counts = f"{[len(x) for x in live]} live, {[len(x) for x in flat]} of {n_tokens} tokens"
            raise ValueError(f"batch: the arrays do not add up: {counts}")

    def to(self, device: torch.device) -> Batch:
        segments = replace(self.segments, key_K=self.segments.key_K.to(device), end_T=self.segments.end_T.to(device))
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved, segments=segments)


def loss_positions(trajectory: Trajectory) -> Ints:
    """Where the tokens stand that the model sampled and some token predicts (the first of all has none before it)."""
    return np.flatnonzero(np.asarray(trajectory.loss_mask[1:])) + 1


def input_stream(trajectory: Trajectory) -> Ints:
    """The tokens that a live one needs: all before the last live token; none where the model sampled nothing."""
    live = loss_positions(trajectory)
    return np.asarray(trajectory.token_ids[: live[-1] if len(live) else 0], dtype=np.int64)


def make_batch(trajectories: Sequence[Trajectory], advantages: Sequence[float], share: bool = True) -> Batch:
    """All trajectories in one batch; with `share`, what they start with in common is computed once."""
    if len(trajectories) != len(advantages):
        raise ValueError(f"batch: {len(advantages)} advantages for {len(trajectories)} trajectories")
    tree = prefix_tree([input_stream(t) for t in trajectories], share)
    rows, places = tree.rows(), [loss_positions(t) for t in trajectories]
    leaves = [(tree.streams[i], shared) for i, shared in zip(tree.order, tree.shared, strict=True)]
    return Batch(
        input_T=_flat([stream[shared:] for stream, shared in leaves]),
        position_T=_flat([np.arange(shared, len(stream)) for stream, shared in leaves]),
        segments=_segments(tree, rows),
        source_L=_flat([row[at - 1] for row, at in zip(rows, places, strict=True)]),
        target_L=_flat([np.asarray(t.token_ids)[at] for t, at in zip(trajectories, places, strict=True)]),
        sampler_logp_L=_flat([np.asarray(t.logprobs)[at] for t, at in zip(trajectories, places, strict=True)]).float(),
        sequence_L=torch.repeat_interleave(torch.tensor([len(at) for at in places])),
        advantage_S=torch.tensor(advantages, dtype=torch.float32),
        unshared_tokens=sum(map(len, tree.streams)),
    )


def idle_batch() -> Batch:
    """One token that predicts another: for a pass through the model from which nothing is learnt."""
    nothing = Trajectory(Task("idle", "policy", ""), (0, 0), (0, 1), (0.0, 0.0), (), StopReason.NO_OUTPUT)
    return make_batch([nothing], [0.0], share=False)


def _segments(tree: PrefixTree, rows: Sequence[Ints]) -> Segments:
    held = [(fresh, rows[i]) for i, fresh in zip(tree.order, tree.fresh, strict=True) if fresh]
    keys = [row for _, row in held]
    return Segments(
        tuple(fresh for fresh, _ in held), tuple(map(len, keys)), _flat(keys), torch.from_numpy(tree.ends())
    )


def _flat(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def micro_batches(
    trajectories: Sequence[Trajectory], advantages: Sequence[float], max_tokens: int, share: str
) -> Iterator[Batch]:
    """Every trajectory that has a live token, in batches of at most `max_tokens` distinct tokens: see packing.packs.

    share: whether common prefixes are computed once: "always", "never", or "auto": where that pays.
    """
    held = [(t, a, input_stream(t)) for t, a in zip(trajectories, advantages, strict=True)]
    held = [(t, a, stream) for t, a, stream in held if len(stream)]
    if not held:  # a rank's part of a step may have none
        return
    streams, prompts = [stream for _, _, stream in held], [int(loss_positions(t)[0]) for t, _, _ in held]
    shares = share == "always" or (share == "auto" and pays(streams))
    for pack in packs(streams, prompts, max_tokens, shares):
        yield make_batch([held[i][0] for i in pack], [held[i][1] for i in pack], shares)
