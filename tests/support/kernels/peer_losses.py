"""GRPO's family as Liger-Kernel 0.8.5 and TRL 1.16 define it in their own tests, re-stated: through the logits of a
whole batch, [rows, width], with every option of theirs that we have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PeerCase:
    """Options by the names of Liger and TRL."""

    loss_type: str  # grpo, bnpo, dr_grpo, dapo, cispo, sapo or luspo
    level: str = "token"
    delta: float | None = None
    beta: float = 0.0
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2  # cispo: the bound itself
    temperature: float = 1.0
    items: float | None = None  # num_items_in_batch


@dataclass(frozen=True)
class PeerBatch:
    """hidden [rows, width, D], weight [V, D], bias [V], ids and mask [rows, width], advantages [rows]; log-probs."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    ids: Tensor
    mask: Tensor
    advantages: Tensor
    old: Tensor | None
    reference: Tensor
    sampler_ratio: Tensor | None = None


def peer_loss(batch: PeerBatch, case: PeerCase) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, mean KL, share of clipped tokens)."""
    logits = F.linear(batch.hidden, batch.weight, batch.bias) / case.temperature
    logp = logits.float().log_softmax(-1).gather(-1, batch.ids[..., None])[..., 0]
    mask, advantages = batch.mask, batch.advantages[:, None]
    log_ratio = logp - (logp.detach() if batch.old is None else batch.old)
    if case.level == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1))[:, None]
    terms = _terms(log_ratio.exp(), advantages, logp, case)
    terms = terms if batch.sampler_ratio is None else terms * batch.sampler_ratio
    to_reference = batch.reference - logp
    kl = to_reference.exp() - to_reference - 1
    terms = terms + case.beta * kl if case.beta else terms
    high = case.epsilon_high if case.loss_type == "cispo" else 1 + case.epsilon_high
    clipped = (log_ratio.exp() > high) & (advantages > 0)
    if case.loss_type != "cispo":
        clipped = clipped | ((log_ratio.exp() < 1 - case.epsilon_low) & (advantages < 0))
    return _reduced(terms, mask, case), _mean(kl, mask), _mean(clipped.float().expand_as(mask), mask)


def _terms(ratio: Tensor, advantages: Tensor, logp: Tensor, case: PeerCase) -> Tensor:
    if case.loss_type == "cispo":
        return -ratio.clamp(max=case.epsilon_high).detach() * advantages * logp
    if case.loss_type == "sapo":
        tau = torch.where(advantages > 0, 1.0, 1.05)
        return -advantages * torch.sigmoid(tau * (ratio - 1)) * 4 / tau
    clipped = ratio.clamp(1 - case.epsilon_low, 1 + case.epsilon_high)
    bounded = ratio if case.delta is None else ratio.clamp(max=case.delta)
    return -torch.min(bounded * advantages, clipped * advantages)


def _reduced(terms: Tensor, mask: Tensor, case: PeerCase) -> Tensor:
    if case.loss_type in ("grpo", "sapo"):
        return ((terms * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()
    if case.loss_type == "luspo":
        return (terms * mask.sum(-1, keepdim=True)).mean()
    if case.loss_type == "dr_grpo":
        return (terms * mask).sum() / mask.numel()
    return (terms * mask).sum() / (mask.sum().clamp(min=1) if case.items is None else case.items)


def _mean(value: Tensor, mask: Tensor) -> Tensor:
    return (value * mask).sum() / mask.sum().clamp(min=1)
