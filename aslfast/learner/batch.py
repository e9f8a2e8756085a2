"""Trajectories and advantages -> batches: flat, packed, shifted. The one place where masks are built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from aslfast.core import StopReason, Task, Trajectory
from aslfast.learner.advantages.signal import Floats, Signal, as_signals
from aslfast.learner.packing import pack_streams, sharing_is_worthwhile
from aslfast.learner.prefix_tree import Ints, PrefixTree, prefix_tree


@dataclass(frozen=True)
class Segments:
    """The attention pattern of a packed batch.

    A segment is a run of consecutive tokens of the flat stream: the tokens that one trajectory adds to the prefix that
    it shares with the trajectories before it. Its queries are those tokens, its keys the whole trajectory. The last
    `query_lengths[i]` of its `key_lengths[i]` keys are its queries, under a causal mask aligned to the last key.

    The same pattern by token: q attends to k iff k <= q < end_T[k].
    """

    query_lengths: tuple[int, ...]  # their sum is T
    key_lengths: tuple[int, ...]
    key_K: Tensor  # the keys of all segments, concatenated: indices into the flat stream
    end_T: Tensor

    @property
    def shared(self) -> bool:
        """Whether some token is a key of more than one segment."""
        return len(self.key_K) > len(self.end_T)

    @property
    def pairs(self) -> int:
        """The number of visible (query, key) pairs."""
        return sum(q * k - q * (q - 1) // 2 for q, k in zip(self.query_lengths, self.key_lengths, strict=True))


@dataclass(frozen=True)
class Batch:
    """Trajectories in one flat stream of T tokens, in which a shared prefix is stored once.

    L counts the loss tokens, those that the model sampled: the hidden state of token `source_L` predicts `target_L`, in
    the trajectory `sequence_L` (0..S-1, in the order given).
    """

    input_T: Tensor
    position_T: Tensor  # within the trajectory
    segments: Segments
    source_L: Tensor
    target_L: Tensor
    sampler_logp_L: Tensor
    sequence_L: Tensor
    advantage_S: Tensor
    unshared_tokens: int  # length of the flat stream without sharing
    advantage_L: Tensor | None = None  # in place of advantage_S, where tokens of one trajectory differ
    kl_weight_L: Tensor | None = None
    success_S: Tensor | None = None
    rate_S: Tensor | None = None
    sft_weight_S: Tensor | None = None

    def __post_init__(self) -> None:
        by_loss_token = self.source_L, self.target_L, self.sampler_logp_L, self.sequence_L
        by_token, n_tokens = (self.position_T, self.segments.end_T), len(self.input_T)
        lengths = {len(x) for x in by_token} | {sum(self.segments.query_lengths)}
        if len({len(x) for x in by_loss_token}) > 1 or lengths != {n_tokens}:
            counts = f"{[len(x) for x in by_loss_token]} loss tokens, {[len(x) for x in by_token]} of {n_tokens} tokens"
            raise ValueError(f"batch: the lengths of the arrays do not match: {counts}")

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on `device`."""
        segments = replace(self.segments, key_K=self.segments.key_K.to(device), end_T=self.segments.end_T.to(device))
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved, segments=segments)


def loss_positions(trajectory: Trajectory) -> Ints:
    """Return the positions of the loss tokens: sampled, in no span that is not to be learned, and predicted by a token
    before them (so never position 0)."""
    positions = np.flatnonzero(np.asarray(trajectory.loss_mask[1:])) + 1
    for span in trajectory.spans:
        if not span.learn:
            positions = positions[(positions < span.start) | (positions >= span.end)]
    return positions


def input_stream(trajectory: Trajectory) -> Ints:
    """Return the tokens before the last loss token: the model's input. Empty where the model sampled nothing."""
    positions = loss_positions(trajectory)
    return np.asarray(trajectory.token_ids[: positions[-1] if len(positions) else 0], dtype=np.int64)


def make_batch(trajectories: Sequence[Trajectory], advantages: Sequence[float | Signal], share: bool = True) -> Batch:
    """Return all trajectories in one batch; with `share`, a common prefix is stored and computed once."""
    if len(trajectories) != len(advantages):
        raise ValueError(f"batch: {len(advantages)} advantages for {len(trajectories)} trajectories")
    signals = as_signals(advantages)
    tree = prefix_tree([input_stream(t) for t in trajectories], share)
    indices, positions = tree.stream_indices(), [loss_positions(t) for t in trajectories]
    leaves = [(tree.streams[i], shared) for i, shared in zip(tree.order, tree.shared, strict=True)]
    return Batch(
        input_T=_flat([stream[shared:] for stream, shared in leaves]),
        position_T=_flat([np.arange(shared, len(stream)) for stream, shared in leaves]),
        segments=_segments(tree, indices),
        source_L=_flat([index[at - 1] for index, at in zip(indices, positions, strict=True)]),
        target_L=_flat([np.asarray(t.token_ids)[at] for t, at in zip(trajectories, positions, strict=True)]),
        sampler_logp_L=_flat(
            [np.asarray(t.logprobs)[at] for t, at in zip(trajectories, positions, strict=True)]
        ).float(),
        sequence_L=torch.repeat_interleave(torch.tensor([len(at) for at in positions])),
        advantage_S=torch.tensor([signal.advantage for signal in signals], dtype=torch.float32),
        unshared_tokens=sum(map(len, tree.streams)),
        advantage_L=_by_token([s.advantage_L for s in signals], [s.advantage for s in signals], positions),
        kl_weight_L=_by_token([s.kl_weight_L for s in signals], [1.0] * len(signals), positions),
        success_S=_if_known([signal.success for signal in signals], torch.bool),
        rate_S=_if_known([signal.rate for signal in signals], torch.float32),
        sft_weight_S=_if_known([signal.sft_weight for signal in signals], torch.float32),
    )


def _if_known(values: Sequence[float | None], dtype: torch.dtype) -> Tensor | None:
    """Return the values by trajectory; None unless all have one."""
    known = [value for value in values if value is not None]
    return torch.tensor(known, dtype=dtype) if known and len(known) == len(values) else None


def _by_token(values: Sequence[Floats | None], otherwise: Sequence[float], positions: Sequence[Ints]) -> Tensor | None:
    """Return the values by loss token, float32, None for none at all; of a trajectory without any its number."""
    if all(value is None for value in values):
        return None
    parts = [
        np.full(len(at), number) if value is None else value
        for value, number, at in zip(values, otherwise, positions, strict=True)
    ]
    return _flat(parts).float()


def idle_batch() -> Batch:
    """Return a batch of one token that predicts another, for a forward pass that adds nothing to the gradient."""
    dummy = Trajectory(Task("idle", "policy", ""), (0, 0), (0, 1), (0.0, 0.0), (), StopReason.NO_OUTPUT)
    return make_batch([dummy], [0.0], share=False)


def _segments(tree: PrefixTree, indices: Sequence[Ints]) -> Segments:
    """Return the segments of the leaves that add a token. indices: those of `PrefixTree.stream_indices`."""
    segments = [(fresh, indices[i]) for i, fresh in zip(tree.order, tree.fresh, strict=True) if fresh]
    keys = [key for _, key in segments]
    return Segments(
        tuple(fresh for fresh, _ in segments), tuple(map(len, keys)), _flat(keys), torch.from_numpy(tree.subtree_ends())
    )


def _flat(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def micro_batches(
    trajectories: Sequence[Trajectory], advantages: Sequence[float | Signal], max_tokens: int, share: str
) -> Iterator[Batch]:
    """Yield every trajectory that has a loss token, in batches of at most `max_tokens` distinct tokens.

    share: whether common prefixes are computed once: "always", "never", or "auto": where that is worthwhile. See
    packing.pack_streams.
    """
    kept = [(t, a, input_stream(t)) for t, a in zip(trajectories, advantages, strict=True)]
    kept = [(t, a, stream) for t, a, stream in kept if len(stream)]
    if not kept:  # a rank's part of a step may have none
        return
    streams, prompts = [stream for _, _, stream in kept], [int(loss_positions(t)[0]) for t, _, _ in kept]
    shares = share == "always" or (share == "auto" and sharing_is_worthwhile(streams))
    for pack in pack_streams(streams, prompts, max_tokens, shares):
        yield make_batch([kept[i][0] for i in pack], [kept[i][1] for i in pack], shares)
