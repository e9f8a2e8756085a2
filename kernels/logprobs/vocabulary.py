"""Softmax statistics of tokens over a vocabulary, whole or split over the ranks of a process group."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Scaling(NamedTuple):
    """The map from raw logits x to scaled ones: z = softcap tanh(x / softcap) / temperature."""

    temperature: float | Tensor  # a tensor: [L, 1], one for each of the tokens
    softcap: float | None

    def scale(self, raw_LV: Tensor) -> Tensor:
        """Return z."""
        capped_LV = raw_LV if self.softcap is None else self.softcap * torch.tanh(raw_LV / self.softcap)
        return capped_LV / self.temperature


class Shard(NamedTuple):
    """This rank's contiguous slice of the vocabulary; `group` is None where the vocabulary is whole."""

    group: ProcessGroup | None
    start: int  # token id of its first row
    total: int  # size of the whole vocabulary
    largest: int  # size of the largest slice: chunks are cut by it, since every rank must come to the same number

    def all_sum(self, tensor: Tensor) -> Tensor:
        """Overwrite `tensor` with its sum over the ranks and return it."""
        if self.group is not None:
            torch.distributed.all_reduce(tensor, group=self.group)
        return tensor


class Statistics(NamedTuple):
    """What the softmax of each token's scaled logits z needs, [L] each: float32, or float64 for float64 inputs."""

    top: Tensor  # max z
    mass: Tensor  # sum of e = exp(z - top)
    weighted: Tensor | None  # sum of e (z - top), where the entropy is asked for
    logit: Tensor  # z[target]; 0 where another rank has the target

    def over(self, shard: Shard) -> Statistics:
        """Return the statistics over all ranks, by the online softmax's rule; two small all-reduces."""
        if shard.group is None:
            return self
        top = self.top.clone()
        torch.distributed.all_reduce(top, torch.distributed.ReduceOp.MAX, group=shard.group)
        factor = (self.top - top).exp()
        weighted = None if self.weighted is None else (self.weighted + (self.top - top) * self.mass) * factor
        sums = [self.mass * factor, self.logit] + ([] if weighted is None else [weighted])
        mass, logit, *rest = shard.all_sum(torch.stack(sums))
        return Statistics(top, mass, rest[0] if rest else None, logit)

    def lse(self) -> Tensor:
        """Return logsumexp(z)."""
        return self.top + self.mass.log()

    def logp(self) -> Tensor:
        """Return log p(target), subtracting as log_softmax does: the large numbers cancel first."""
        return (self.logit - self.top) - self.mass.log()

    def entropy(self) -> Tensor:
        """Return the entropy in nats; [0] where it was not asked for."""
        if self.weighted is None:
            return self.top.new_empty(0)
        return self.mass.log() - self.weighted / self.mass


def shard_of(size: int, device: torch.device, group_name: str | None) -> Shard:
    """Return this rank's slice of `size`. Slices follow the group's ranks and may differ in size: one small
    all-gather."""
    if group_name is None:
        return Shard(None, 0, size, size)
    # The group itself cannot be an argument of a torch.library operator; this is how torch's own collectives find it.
    group = torch.distributed.distributed_c10d._resolve_process_group(group_name)  # pyright: ignore
    own = torch.tensor([size], device=device)
    sizes = [torch.empty_like(own) for _ in range(group.size())]
    torch.distributed.all_gather(sizes, own, group=group)
    sizes = torch.cat(sizes).tolist()
    return Shard(group, sum(sizes[: group.rank()]), sum(sizes), max(sizes))
