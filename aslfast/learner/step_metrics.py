"""What an optimizer step tells of itself: added up over its micro-batches, on the device, read back once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from aslfast_kernels import PolicyMetrics
from torch import Tensor

from aslfast.distributed.process_group import ProcessGroup
from aslfast.learner.batch import Batch
from aslfast.learner.loss import LossInputs


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What one optimizer step did. KLs are in nats per live token, before the step; None: not known.

    A step whose loss or gradient was not finite was skipped: its loss and grad_norm are None, and `not_finite` names
    the tasks of the trajectories that did it (none where each is finite alone).
    """

    loss: float | None
    grad_norm: float | None
    kl: float | None  # k3 estimate of the adapter's to the base; None: not measured in this step (learner.kl_every)
    clip_fraction: float | None  # of live tokens whose ratio the clipping replaced
    ratio_max: float | None
    mismatch: float | None  # mean |log-prob difference| between learner and sampler
    mismatch_max: float | None  # the largest
    mismatch_kl: float | None  # k3 estimate of the sampler's to the learner
    loss_tokens: int
    forward_tokens: int  # through the model; a shared prefix counts once
    shared_tokens: int  # more that would have gone without sharing
    skipped_steps: int  # of the run so far
    not_finite: tuple[str, ...] = ()


class StepSums:
    """Sums and extremes over a step's live tokens. Over micro-batches and ranks `sums` add up, `most` is a maximum."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(5, dtype=torch.float64, device=device)  # loss, KL, clipped, |difference|, mismatch KL
        self.most = torch.zeros(2, dtype=torch.float64, device=device)  # ratio, |difference|
        self.forward_tokens = self.unshared_tokens = 0
        self.with_kl = False

    def add(self, loss: Tensor, metrics: PolicyMetrics, inputs: LossInputs, part: Batch) -> None:
        difference_L = inputs.logp_L.detach() - inputs.sampler_logp_L
        apart_L, k3_L = difference_L.abs(), difference_L.exp() - 1 - difference_L
        n = len(difference_L)
        self.sums += torch.stack(
            [loss.detach(), metrics.kl_ref * n, metrics.clip_fraction * n, apart_L.sum(), k3_L.sum()]
        )
        self.most = torch.maximum(self.most, torch.stack([metrics.ratio_max, apart_L.max()]))
        self.forward_tokens += len(part.input_T)
        self.unshared_tokens += part.unshared_tokens
        self.with_kl = inputs.base_logp_L is not None

    def add_up(self, ranks: ProcessGroup) -> None:
        """Those of all ranks, on each."""
        counts = torch.tensor([self.forward_tokens, self.unshared_tokens])
        measured = torch.tensor([int(self.with_kl)])  # a rank without a live token has measured none
        ranks.all_reduce_sum([self.sums])
        ranks.all_reduce_sum([counts])
        ranks.all_reduce_max([self.most])
        ranks.all_reduce_max([measured])
        self.forward_tokens, self.unshared_tokens = counts.tolist()
        self.with_kl = bool(measured)

    @property
    def loss(self) -> float:
        return float(self.sums[0])

    def stats(
        self, loss_tokens: int, grad_norm: float | None, skipped_steps: int, not_finite: tuple[str, ...] = ()
    ) -> UpdateStats:
        """grad_norm None: the step was skipped."""
        loss, *totals = self.sums.tolist()
        kl, clip_fraction, mismatch, mismatch_kl = (_known(total / loss_tokens) for total in totals)
        ratio_max, mismatch_max = (_known(value) for value in self.most.tolist())
        return UpdateStats(
            None if grad_norm is None else loss, grad_norm, kl if self.with_kl else None, clip_fraction, ratio_max,
            mismatch, mismatch_max, mismatch_kl, loss_tokens, self.forward_tokens,
            self.unshared_tokens - self.forward_tokens, skipped_steps, not_finite,
        )  # fmt: skip


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
