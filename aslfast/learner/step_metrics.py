"""The metrics of an optimizer step: accumulated over its micro-batches on the device, read back once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from aslfast.distributed.process_group import ProcessGroup
from aslfast.learner.batch import Batch
from aslfast.learner.loss import LossInputs
from aslfast_kernels import PolicyMetrics


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """The metrics of one optimizer step. KLs are in nats per loss token, before the step; None: not measured.

    A step whose loss or gradient was not finite was skipped: its loss and grad_norm are None, and `not_finite` names
    the tasks of the trajectories that caused it (none where each alone is finite).
    """

    loss: float | None
    grad_norm: float | None
    kl: float | None  # k3 estimate of KL(adapter || base); None: not measured in this step (learner.kl_every)
    clip_fraction: float | None  # of loss tokens whose ratio was clipped
    ratio_max: float | None
    mismatch: float | None  # mean |log-prob difference| between learner and sampler
    mismatch_max: float | None  # the largest
    mismatch_kl: float | None  # k3 estimate of KL(sampler || learner)
    loss_tokens: int
    forward_tokens: int  # through the model; a shared prefix counts once
    shared_tokens: int  # forward passes of tokens that prefix sharing saved
    skipped_steps: int  # of the run so far
    not_finite: tuple[str, ...] = ()


class StepSums:
    """Sums and maxima over a step's loss tokens, over micro-batches and ranks."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(5, dtype=torch.float64, device=device)  # loss, KL, clipped, |difference|, mismatch KL
        self.maxima = torch.zeros(3, dtype=torch.float64, device=device)  # ratio, |difference|, 1 for a NaN log-prob
        self.forward_tokens = self.unshared_tokens = 0
        self.pairs = 0  # of a query and a key that it attends to
        self.with_kl = False

    def add(self, loss: Tensor, metrics: PolicyMetrics, inputs: LossInputs, batch: Batch) -> None:
        """Add a micro-batch."""
        difference_L = inputs.logp_L.detach() - inputs.sampler_logp_L
        absolute_L, k3_L = difference_L.abs(), difference_L.exp() - 1 - difference_L
        n = len(difference_L)
        self.sums += torch.stack(
            [loss.detach(), metrics.kl_ref * n, metrics.clip_fraction * n, absolute_L.sum(), k3_L.sum()]
        )
        not_finite = (~inputs.logp_L.isfinite()).any().to(absolute_L)
        maxima = torch.stack([metrics.ratio_max, absolute_L.max(), not_finite])
        self.maxima = torch.maximum(self.maxima, maxima)
        self.forward_tokens += len(batch.input_T)
        self.unshared_tokens += batch.unshared_tokens
        self.pairs += batch.segments.pairs
        self.with_kl = inputs.base_logp_L is not None

    def all_reduce(self, ranks: ProcessGroup) -> None:
        """Replace every rank's sums and maxima by those over all ranks."""
        counts = torch.tensor([self.forward_tokens, self.unshared_tokens, self.pairs])
        measured = torch.tensor([int(self.with_kl)])  # a rank without a loss token has measured no KL
        ranks.all_reduce_sum([self.sums])
        ranks.all_reduce_sum([counts])
        ranks.all_reduce_max([self.maxima])
        ranks.all_reduce_max([measured])
        self.forward_tokens, self.unshared_tokens, self.pairs = counts.tolist()
        self.with_kl = bool(measured)

    @property
    def loss(self) -> float:
        """The step's loss."""
        return float(self.sums[0])

    @property
    def logprobs_finite(self) -> bool:
        """Whether the learner's own log-probs were all finite, whatever the loss made of them."""
        return not bool(self.maxima[2])

    def stats(
        self, loss_tokens: int, grad_norm: float | None, skipped_steps: int, not_finite: tuple[str, ...] = ()
    ) -> UpdateStats:
        """Return the step's metrics. grad_norm None: the step was skipped."""
        loss, *totals = self.sums.tolist()
        kl, clip_fraction, mismatch, mismatch_kl = (_finite_or_none(total / loss_tokens) for total in totals)
        ratio_max, mismatch_max = (_finite_or_none(value) for value in self.maxima[:2].tolist())
        return UpdateStats(
            loss=None if grad_norm is None else loss,
            grad_norm=grad_norm,
            kl=kl if self.with_kl else None,
            clip_fraction=clip_fraction,
            ratio_max=ratio_max,
            mismatch=mismatch,
            mismatch_max=mismatch_max,
            mismatch_kl=mismatch_kl,
            loss_tokens=loss_tokens,
            forward_tokens=self.forward_tokens,
            shared_tokens=self.unshared_tokens - self.forward_tokens,
            skipped_steps=skipped_steps,
            not_finite=not_finite,
        )


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
