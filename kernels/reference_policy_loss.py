"""The policy losses in plain torch; gradients by autograd."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import compute_dtype

_MAX_LOG_RATIO = 20.0


class PolicyMetrics(NamedTuple):
    """Detached 0-d tensors over the live tokens of one call (0 live tokens: zeros, and ratios of 1)."""

    clip_share: Tensor  # share of tokens whose ratio the clipping replaced (for cispo: outside the range)
    approx_kl: Tensor  # nats per token: mean of r - 1 - log r with token ratios r = new / old, estimates KL(old || new)
    ratio_min: Tensor  # of the ratios used (token or sequence level)
    ratio_max: Tensor
    kl_ref: Tensor  # nats per token: mean k3 estimate of KL(new || reference); 0 without a reference
    tokens: Tensor  # live tokens, the weight with which means of micro-batches are to be averaged


def policy_loss(
    logp_T: Tensor,
    old_logp_T: Tensor,
    advantage: Tensor,
    *,
    sequence_ids_T: Tensor | None = None,
    mask_T: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    ref_logp_T: Tensor | None = None,
    kl_coef: float = 0.0,
    ratio_level: str = "token",
    kind: str = "ppo",
    sampler_logp_T: Tensor | None = None,
    tis_cap: float | None = None,
    aggregate: str = "token_mean",
    normalizer: float | Tensor | None = None,
    advantage_level: str = "token",
) -> tuple[Tensor, PolicyMetrics]:
    """See `aslfast_kernels.policy_loss`. Suffix L: live tokens, selected first, so that masked values never count."""
    live_T = torch.ones_like(logp_T, dtype=torch.bool) if mask_T is None else mask_T
    live_T = live_T if sequence_ids_T is None else live_T & (sequence_ids_T >= 0)
    dtype = compute_dtype(logp_T)
    logp_L, old_L = logp_T[live_T].to(dtype), old_logp_T[live_T].detach().to(dtype)
    ids_L = None if sequence_ids_T is None else sequence_ids_T[live_T].long()
    by_sequence = advantage_level == "sequence" and ids_L is not None
    advantage_L = (advantage[ids_L] if by_sequence else advantage[live_T]).detach().to(dtype)

    ratio_L = _exp(_log_ratio(logp_L, old_L, ids_L, ratio_level))
    clipped_L = ratio_L.clamp(1 - clip_low, 1 + clip_high)
    if kind == "cispo":
        loss_L = -clipped_L.detach() * advantage_L * logp_L
        was_clipped_L = clipped_L != ratio_L
    else:
        loss_L, was_clipped_L = _ppo(ratio_L, clipped_L, advantage_L, dual_clip)
    if sampler_logp_T is not None and tis_cap is not None:
        loss_L = loss_L * _exp(old_L - sampler_logp_T[live_T].detach().to(dtype)).clamp(max=tis_cap)
    kl_L = torch.zeros_like(loss_L)
    if ref_logp_T is not None:
        kl_L = _k3(ref_logp_T[live_T].detach().to(dtype) - logp_L)
        loss_L = loss_L + kl_coef * kl_L

    loss = _aggregate(loss_L, ids_L, aggregate, normalizer)
    return loss, _metrics(was_clipped_L, logp_L - old_L, ratio_L, kl_L)


def _ppo(ratio_L: Tensor, clipped_L: Tensor, advantage_L: Tensor, dual_clip: float | None) -> tuple[Tensor, Tensor]:
    plain_L = -ratio_L * advantage_L
    loss_L = torch.maximum(plain_L, -clipped_L * advantage_L)
    if dual_clip is not None:
        bounded_L = torch.minimum(loss_L, -dual_clip * advantage_L)
        loss_L = torch.where(advantage_L < 0, bounded_L, loss_L)
    return loss_L, loss_L.detach() != plain_L.detach()


def _exp(log_ratio_L: Tensor) -> Tensor:
    return log_ratio_L.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()


def _k3(log_ratio_L: Tensor) -> Tensor:
    bounded_L = log_ratio_L.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return torch.expm1(bounded_L) - bounded_L


def _log_ratio(logp_L: Tensor, old_L: Tensor, ids_L: Tensor | None, ratio_level: str) -> Tensor:
    diff_L = logp_L - old_L
    if ratio_level == "token" or ids_L is None:
        return diff_L
    sequence_L, size_S = _sequences(ids_L)
    return (_sequence_sum(diff_L, sequence_L, size_S) / size_S)[sequence_L]


def _sequences(ids_L: Tensor) -> tuple[Tensor, Tensor]:
    """Each live token's sequence counted from 0, and the live size of each sequence."""
    _, sequence_L, size_S = torch.unique(ids_L, return_inverse=True, return_counts=True)
    return sequence_L, size_S


def _sequence_sum(value_L: Tensor, sequence_L: Tensor, size_S: Tensor) -> Tensor:
    return value_L.new_zeros(size_S.shape).index_add(0, sequence_L, value_L)


def _aggregate(loss_L: Tensor, ids_L: Tensor | None, aggregate: str, normalizer: float | Tensor | None) -> Tensor:
    if aggregate == "sequence_mean" and ids_L is not None:
        sequence_L, size_S = _sequences(ids_L)
        total, count = (loss_L / size_S[sequence_L]).sum(), size_S.numel()
    else:
        total, count = loss_L.sum(), loss_L.numel()
    # As a tensor of the loss's dtype: a float64 normalizer must not widen the loss.
    return total / torch.as_tensor(max(count, 1) if normalizer is None else normalizer).to(total)


@torch.no_grad()
def _metrics(was_clipped_L: Tensor, diff_L: Tensor, ratio_L: Tensor, kl_L: Tensor) -> PolicyMetrics:
    tokens = torch.tensor(diff_L.numel(), device=diff_L.device)
    if not diff_L.numel():
        zero, one = diff_L.new_zeros(()), diff_L.new_ones(())
        return PolicyMetrics(zero, zero, one, one, zero, tokens)
    clip_share = was_clipped_L.to(diff_L.dtype).mean()
    return PolicyMetrics(clip_share, _k3(diff_L).mean(), ratio_L.amin(), ratio_L.amax(), kl_L.mean(), tokens)
