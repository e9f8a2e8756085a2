"""The policy losses in plain torch: the specification. The gradient is written out, as it is in the kernel, so that
one operator of torch.library can hold either: autograd does not run inside an operator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import check_indices, compute_dtype

MAX_LOG_RATIO = 20.0
KL_KINDS = ("k1", "k2", "k3", "abs", "k1+", "k3+")


class PolicyMetrics(NamedTuple):
    """Detached 0-d tensors over the loss tokens of one call (0 loss tokens: zeros, and ratios of 1)."""

    clip_fraction: Tensor  # tokens whose ratio the clipping replaced (for cispo: outside the range), of all
    approx_kl: Tensor  # nats per token: mean of r - 1 - log r with token ratios r = new / old, estimates KL(old || new)
    ratio_min: Tensor  # of the ratios used (token or sequence level)
    ratio_max: Tensor
    kl_ref: Tensor  # nats per token: mean estimate of KL(new || reference) by `kl_kind`; 0 without a reference
    tokens: Tensor  # loss tokens, the weight with which means of micro-batches are to be averaged


class PolicyResult(NamedTuple):
    """d loss / d logp is gradient_T / normalizer: a default normalizer is known only when every token was seen."""

    loss: Tensor
    gradient_T: Tensor
    normalizer: Tensor
    metrics_M: Tensor  # the five floats of PolicyMetrics, in its order
    tokens: Tensor


# More than 6 parameters: those of the public function.
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
    kl_kind: str = "k3",
    ratio_level: str = "token",
    kind: str = "ppo",
    sampler_logp_T: Tensor | None = None,
    tis_cap: float | None = None,
    aggregate: str = "token_mean",
    normalizer: float | Tensor | None = None,
    advantage_level: str = "token",
) -> PolicyResult:
    """Return what `aslfast_kernels.policy_loss` specifies, and its gradient; loss tokens are selected first."""
    keep_T = _loss_tokens(logp_T, sequence_ids_T, mask_T)
    dtype = compute_dtype(logp_T)
    logp_L, old_L = logp_T[keep_T].to(dtype), old_logp_T[keep_T].to(dtype)
    ids_L = None if sequence_ids_T is None else sequence_ids_T[keep_T].long()
    advantage_L = _advantages(advantage, advantage_level, sequence_ids_T, keep_T).to(dtype)
    log_ratio_L = _log_ratio(logp_L, old_L, ids_L, ratio_level)
    ratio_L = _exp(log_ratio_L)
    clipped_L = ratio_L.clamp(1 - clip_low, 1 + clip_high)
    if kind == "cispo":
        loss_L, slope_L, was_clipped_L = _cispo(ratio_L, clipped_L, advantage_L, logp_L)
    else:
        loss_L, slope_L, was_clipped_L = _ppo(log_ratio_L, ratio_L, clipped_L, advantage_L, dual_clip)
    if sampler_logp_T is not None and tis_cap is not None:
        weight_L = _exp(old_L - sampler_logp_T[keep_T].to(dtype)).clamp(max=tis_cap)
        loss_L, slope_L = loss_L * weight_L, slope_L * weight_L
    if kind == "ppo" and ratio_level == "sequence" and ids_L is not None:
        slope_L = _sequence_mean(slope_L, ids_L)  # every token moves the ratio of all of its sequence
    kl_L = torch.zeros_like(loss_L)
    if ref_logp_T is not None:
        kl_L, kl_slope_L = kl_and_slope(logp_L - ref_logp_T[keep_T].to(dtype), kl_kind)
        loss_L, slope_L = loss_L + kl_coef * kl_L, slope_L + kl_coef * kl_slope_L
    weight_L, count = _aggregation_weights(loss_L, ids_L, aggregate)
    # As a tensor of the loss's dtype: a float64 normalizer must not widen the loss.
    divisor = torch.as_tensor(max(count, 1) if normalizer is None else normalizer).to(loss_L)
    gradient_T = torch.zeros_like(logp_T, dtype=dtype)
    gradient_T[keep_T] = slope_L * weight_L
    tokens = torch.tensor(logp_L.numel(), device=logp_L.device)
    metrics_M = _metrics(was_clipped_L, logp_L - old_L, ratio_L, kl_L)
    return PolicyResult((loss_L * weight_L).sum() / divisor, gradient_T, divisor, metrics_M, tokens)


def policy_loss_backward(gradient_T: Tensor, normalizer: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    """Return gradient_T upstream / normalizer [T] in `dtype`."""
    return (gradient_T * (upstream / normalizer)).to(dtype)


def _loss_tokens(logp_T: Tensor, sequence_ids_T: Tensor | None, mask_T: Tensor | None) -> Tensor:
    keep_T = torch.ones_like(logp_T, dtype=torch.bool) if mask_T is None else mask_T
    return keep_T if sequence_ids_T is None else keep_T & (sequence_ids_T >= 0)


def _advantages(advantage: Tensor, level: str, sequence_ids_T: Tensor | None, keep_T: Tensor) -> Tensor:
    """Return the advantage of each loss token [L]."""
    if level != "sequence" or sequence_ids_T is None:
        return advantage[keep_T]
    check_indices("sequence_ids_T", sequence_ids_T, -1, advantage.shape[0], " (an index into advantage)")
    return advantage[sequence_ids_T[keep_T].long()]


def _cispo(ratio_L: Tensor, clipped_L: Tensor, advantage_L: Tensor, logp_L: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of each token, its slope by logp, and whether the ratio was clipped."""
    slope_L = -clipped_L * advantage_L
    return slope_L * logp_L, slope_L, clipped_L != ratio_L


def _ppo(
    log_ratio_L: Tensor, ratio_L: Tensor, clipped_L: Tensor, advantage_L: Tensor, dual_clip: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of each token, its slope by the log-ratio, and whether the ratio was clipped."""
    plain_L = -ratio_L * advantage_L
    loss_L = torch.maximum(plain_L, -clipped_L * advantage_L)
    if dual_clip is not None:
        bounded_L = torch.minimum(loss_L, -dual_clip * advantage_L)
        loss_L = torch.where(advantage_L < 0, bounded_L, loss_L)
    was_clipped_L = (loss_L != plain_L) & ~plain_L.isnan()
    # d (-r A) / d log r is -r A itself; what was clipped, or lies beyond the clamp of exp, is a constant.
    slope_L = loss_L.masked_fill(was_clipped_L | (log_ratio_L.abs() > MAX_LOG_RATIO), 0.0)
    return loss_L, slope_L, was_clipped_L


def _exp(log_ratio_L: Tensor) -> Tensor:
    return log_ratio_L.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _k3(log_ratio_L: Tensor) -> Tensor:
    bounded_L = log_ratio_L.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(bounded_L) - bounded_L


def kl_and_slope(d_L: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return the estimate of each token's KL(new || reference) from d = logp - ref, and its slope by logp."""
    value_L = {"k1": d_L, "k2": d_L.square() / 2, "k3": _k3(-d_L), "abs": d_L.abs()}[kind.removesuffix("+")]
    if kind == "k1":
        return value_L, torch.ones_like(d_L)
    if kind == "abs":
        return value_L, d_L.sign()
    if kind == "k3":
        return value_L, -torch.expm1(-d_L).masked_fill(d_L.abs() > MAX_LOG_RATIO, 0.0)
    return value_L, d_L  # k2's, and that of the straight-through kinds


def _log_ratio(logp_L: Tensor, old_L: Tensor, ids_L: Tensor | None, ratio_level: str) -> Tensor:
    if ratio_level == "token" or ids_L is None:
        return logp_L - old_L
    return _sequence_mean(logp_L - old_L, ids_L)


def _sequence_mean(value_L: Tensor, ids_L: Tensor) -> Tensor:
    """Return, at each token's place, the mean over its sequence."""
    _, sequence_L, size_S = torch.unique(ids_L, return_inverse=True, return_counts=True)
    total_S = value_L.new_zeros(size_S.shape).index_add(0, sequence_L, value_L)
    return (total_S / size_S)[sequence_L]


def _aggregation_weights(loss_L: Tensor, ids_L: Tensor | None, aggregate: str) -> tuple[Tensor, int]:
    """Return each token's weight in the sum, and what the sum counts: sequences or tokens."""
    if aggregate != "sequence_mean" or ids_L is None:
        return torch.ones_like(loss_L), loss_L.numel()
    _, sequence_L, size_S = torch.unique(ids_L, return_inverse=True, return_counts=True)
    return 1 / size_S[sequence_L].to(loss_L.dtype), size_S.numel()


def _metrics(was_clipped_L: Tensor, diff_L: Tensor, ratio_L: Tensor, kl_L: Tensor) -> Tensor:
    if not diff_L.numel():
        return diff_L.new_tensor([0.0, 0.0, 1.0, 1.0, 0.0])
    clip_fraction = was_clipped_L.to(diff_L.dtype).mean()
    return torch.stack([clip_fraction, _k3(diff_L).mean(), ratio_L.amin(), ratio_L.amax(), kl_L.mean()])
