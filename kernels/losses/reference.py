"""The policy losses in plain torch. The gradient is written out, as it is in the kernel, so that one operator of
torch.library can hold either: autograd does not run inside an operator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import check_indices, compute_dtype

MAX_LOG_RATIO = 20.0


class PolicyMetrics(NamedTuple):
    """Detached 0-d tensors over the live tokens of one call (0 live tokens: zeros, and ratios of 1)."""

    clip_fraction: Tensor  # share of tokens whose ratio the clipping replaced (for cispo: outside the range)
    approx_kl: Tensor  # nats per token: mean of r - 1 - log r with token ratios r = new / old, estimates KL(old || new)
    ratio_min: Tensor  # of the ratios used (token or sequence level)
    ratio_max: Tensor
    kl_ref: Tensor  # nats per token: mean k3 estimate of KL(new || reference); 0 without a reference
    tokens: Tensor  # live tokens, the weight with which means of micro-batches are to be averaged


class PolicyResult(NamedTuple):
    """d loss / d logp is gradient_T / normalizer: a default normalizer is known only when every token was seen."""

    loss: Tensor
    gradient_T: Tensor
    normalizer: Tensor
    metrics_M: Tensor  # the five floats of PolicyMetrics, in its order
    tokens: Tensor


@torch.no_grad()
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
) -> PolicyResult:
    """See `aslfast_kernels.policy_loss`. Suffix L: live tokens, selected first, so that masked values never count."""
    live_T = torch.ones_like(logp_T, dtype=torch.bool) if mask_T is None else mask_T
    live_T = live_T if sequence_ids_T is None else live_T & (sequence_ids_T >= 0)
    dtype = compute_dtype(logp_T)
    logp_L, old_L = logp_T[live_T].to(dtype), old_logp_T[live_T].to(dtype)
    ids_L = None if sequence_ids_T is None else sequence_ids_T[live_T].long()
    if advantage_level == "sequence" and ids_L is not None and sequence_ids_T is not None:
        check_indices("sequence_ids_T", sequence_ids_T, -1, advantage.shape[0], " (an index into advantage)")
        advantage_L = advantage[ids_L].to(dtype)
    else:
        advantage_L = advantage[live_T].to(dtype)

    log_ratio_L = _log_ratio(logp_L, old_L, ids_L, ratio_level)
    ratio_L = _exp(log_ratio_L)
    clipped_L = ratio_L.clamp(1 - clip_low, 1 + clip_high)
    if kind == "cispo":
        slope_L = -clipped_L * advantage_L
        loss_L, was_clipped_L = slope_L * logp_L, clipped_L != ratio_L
    else:
        loss_L, was_clipped_L = _ppo(ratio_L, clipped_L, advantage_L, dual_clip)
        # d (-r A) / d log r is -r A itself; what was clipped, or lies beyond the clamp of exp, is a constant.
        slope_L = loss_L.masked_fill(was_clipped_L | (log_ratio_L.abs() > MAX_LOG_RATIO), 0.0)
    if sampler_logp_T is not None and tis_cap is not None:
        weight_L = _exp(old_L - sampler_logp_T[live_T].to(dtype)).clamp(max=tis_cap)
        loss_L, slope_L = loss_L * weight_L, slope_L * weight_L
    if kind == "ppo" and ratio_level == "sequence" and ids_L is not None:
        slope_L = _sequence_mean(slope_L, ids_L)  # every token moves the ratio of all of its sequence
    kl_L = torch.zeros_like(loss_L)
    if ref_logp_T is not None:
        to_ref_L = ref_logp_T[live_T].to(dtype) - logp_L
        kl_L = _k3(to_ref_L)
        loss_L = loss_L + kl_coef * kl_L
        slope_L = slope_L - kl_coef * to_ref_L.expm1().masked_fill(to_ref_L.abs() > MAX_LOG_RATIO, 0.0)

    share_L, count = _shares(loss_L, ids_L, aggregate)
    # As a tensor of the loss's dtype: a float64 normalizer must not widen the loss.
    divisor = torch.as_tensor(max(count, 1) if normalizer is None else normalizer).to(loss_L)
    gradient_T = torch.zeros_like(logp_T, dtype=dtype)
    gradient_T[live_T] = slope_L * share_L
    tokens = torch.tensor(logp_L.numel(), device=logp_L.device)
    metrics_M = _metrics(was_clipped_L, logp_L - old_L, ratio_L, kl_L)
    return PolicyResult((loss_L * share_L).sum() / divisor, gradient_T, divisor, metrics_M, tokens)


def policy_loss_backward(gradient_T: Tensor, normalizer: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    return (gradient_T * (upstream / normalizer)).to(dtype)


def _ppo(ratio_L: Tensor, clipped_L: Tensor, advantage_L: Tensor, dual_clip: float | None) -> tuple[Tensor, Tensor]:
    plain_L = -ratio_L * advantage_L
    loss_L = torch.maximum(plain_L, -clipped_L * advantage_L)
    if dual_clip is not None:
        bounded_L = torch.minimum(loss_L, -dual_clip * advantage_L)
        loss_L = torch.where(advantage_L < 0, bounded_L, loss_L)
    return loss_L, (loss_L != plain_L) & ~plain_L.isnan()


def _exp(log_ratio_L: Tensor) -> Tensor:
    return log_ratio_L.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _k3(log_ratio_L: Tensor) -> Tensor:
    bounded_L = log_ratio_L.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(bounded_L) - bounded_L


def _log_ratio(logp_L: Tensor, old_L: Tensor, ids_L: Tensor | None, ratio_level: str) -> Tensor:
    if ratio_level == "token" or ids_L is None:
        return logp_L - old_L
    return _sequence_mean(logp_L - old_L, ids_L)


def _sequence_mean(value_L: Tensor, ids_L: Tensor) -> Tensor:
    """The mean over each one's sequence, at each one's place."""
    _, sequence_L, size_S = torch.unique(ids_L, return_inverse=True, return_counts=True)
    total_S = value_L.new_zeros(size_S.shape).index_add(0, sequence_L, value_L)
    return (total_S / size_S)[sequence_L]


def _shares(loss_L: Tensor, ids_L: Tensor | None, aggregate: str) -> tuple[Tensor, int]:
    """Each token's weight in the sum, and what the sum counts: sequences or tokens."""
    if aggregate != "sequence_mean" or ids_L is None:
        return torch.ones_like(loss_L), loss_L.numel()
    _, sequence_L, size_S = torch.unique(ids_L, return_inverse=True, return_counts=True)
    return 1 / size_S[sequence_L].to(loss_L.dtype), size_S.numel()


def _metrics(was_clipped_L: Tensor, diff_L: Tensor, ratio_L: Tensor, kl_L: Tensor) -> Tensor:
    if not diff_L.numel():
        return diff_L.new_tensor([0.0, 0.0, 1.0, 1.0, 0.0])
    clip_fraction = was_clipped_L.to(diff_L.dtype).mean()
    return torch.stack([clip_fraction, _k3(diff_L).mean(), ratio_L.amin(), ratio_L.amax(), kl_L.mean()])
