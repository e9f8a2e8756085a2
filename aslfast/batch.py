"""Groups and advantages -> Batch: flat, packed, shifted. The one place where masks are built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from aslfast.core import Trajectory


@dataclass(frozen=True)
class Batch:
    """Trajectories laid end to end, each shifted by one: position t predicts target t.

    T counts the predicting tokens of all S trajectories; sequence_T says whose each is. `live_T` marks the targets
    that the model sampled; `sampler_logp_T` is meaningful there alone.
    """

    input_T: Tensor
    target_T: Tensor
    position_T: Tensor
    sequence_T: Tensor
    live_T: Tensor
    sampler_logp_T: Tensor
    advantage_S: Tensor
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        tokens = (self.input_T, self.target_T, self.position_T, self.sequence_T, self.live_T, self.sampler_logp_T)
        sizes, n_tokens = {len(x) for x in tokens}, sum(self.lengths)
        if sizes != {n_tokens} or len(self.advantage_S) != len(self.lengths):
            counts = f"{len(self.advantage_S)} advantages for {len(self.lengths)} trajectories"
            raise ValueError(f"batch: arrays of {sorted(sizes)} tokens for {n_tokens}, {counts}")

    def to(self, device: torch.device) -> Batch:
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "lengths"}
        return Batch(**moved, lengths=self.lengths)

    @property
    def live_tokens(self) -> int:
        return int(self.live_T.sum())


def make_batch(trajectories: Sequence[Trajectory], advantages: Sequence[float]) -> Batch:
    lengths = tuple(len(t.token_ids) - 1 for t in trajectories)
    return Batch(
        input_T=_flat([t.token_ids[:-1] for t in trajectories]),
        target_T=_flat([t.token_ids[1:] for t in trajectories]),
        position_T=torch.cat([torch.arange(n) for n in lengths]),
        sequence_T=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        live_T=_flat([t.loss_mask[1:] for t in trajectories]).bool(),
        sampler_logp_T=_flat([t.logprobs[1:] for t in trajectories], torch.float32),
        advantage_S=torch.tensor(advantages, dtype=torch.float32),
        lengths=lengths,
    )


def _flat(parts: Sequence[Sequence[float]], dtype: torch.dtype = torch.long) -> Tensor:
    return torch.cat([torch.tensor(part, dtype=dtype) for part in parts])


def micro_batches(trajectories: Sequence[Trajectory], advantages: Sequence[float], max_tokens: int) -> Iterator[Batch]:
    """Batches of like lengths, each at most `max_tokens` when padded to its longest (one trajectory at the least)."""
    order = sorted(range(len(trajectories)), key=lambda i: (len(trajectories[i].token_ids), i))
    chosen: list[int] = []
    for i in order:
        if chosen and (len(chosen) + 1) * len(trajectories[i].token_ids) > max_tokens:
            yield make_batch([trajectories[j] for j in chosen], [advantages[j] for j in chosen])
            chosen = []
        chosen.append(i)
    if chosen:
        yield make_batch([trajectories[j] for j in chosen], [advantages[j] for j in chosen])


@dataclass(frozen=True)
class Layout:
    """A batch as the model's input: rows x columns, and where each flat token stands in them."""

    input_BT: Tensor
    position_BT: Tensor
    mask: Tensor | None  # [1, 1, T, T] bool, True where attention is allowed; None: plain causal
    row_T: Tensor
    column_T: Tensor


def padded(batch: Batch) -> Layout:
    """One row a trajectory, padded on the right; causal attention never looks at the padding.

    Positions run on over the padding: where they start anew, transformers sees packed rows and makes a mask for them.
    """
    input_BT = batch.input_T.new_zeros(len(batch.lengths), max(batch.lengths))
    input_BT[batch.sequence_T, batch.position_T] = batch.input_T
    position_BT = torch.arange(input_BT.shape[1], device=input_BT.device).expand_as(input_BT)
    return Layout(input_BT, position_BT, None, batch.sequence_T, batch.position_T)


def packed(batch: Batch) -> Layout:
    """One row for all; the mask confines attention to each trajectory's own past."""
    same = batch.sequence_T[:, None] == batch.sequence_T[None, :]
    causal = batch.position_T[:, None] >= batch.position_T[None, :]
    mask = (same & causal)[None, None]
    row_T = torch.zeros_like(batch.sequence_T)
    column_T = torch.arange(len(row_T), device=row_T.device)
    return Layout(batch.input_T[None], batch.position_T[None], mask, row_T, column_T)
