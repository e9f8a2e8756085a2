"""Group advantages in plain torch: the specification."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import compute_dtype


# More than 6 parameters: those of the public function.
@torch.no_grad()
def group_advantage(
    rewards_N: Tensor,
    group_ids_N: Tensor,
    *,
    baseline: str = "mean",
    scale: str = "group",
    eps: float = 1e-6,
    sample_std: bool = False,
    keep_singletons: bool = False,
    sequence_ids_T: Tensor | None = None,
) -> Tensor:
    """Return what `aslfast_kernels.group_advantage` specifies, without its checks."""
    r_N = rewards_N.to(torch.float64, copy=True)  # an operator may not return its input
    if r_N.numel():
        r_N = _advantage(r_N, group_ids_N, (baseline, scale, eps), sample_std, keep_singletons)
    advantage_N = r_N.to(compute_dtype(rewards_N))
    return advantage_N if sequence_ids_T is None else _to_tokens(advantage_N, sequence_ids_T.long())


def _advantage(
    r_N: Tensor, group_ids_N: Tensor, rule: tuple[str, str, float], sample_std: bool, keep_singletons: bool
) -> Tensor:
    (baseline, scale, eps), (_, group_N) = rule, torch.unique(group_ids_N, return_inverse=True)
    n_N = _group_sum(torch.ones_like(r_N), group_N)
    centred_N = r_N - _group_sum(r_N, group_N) / n_N
    # The mean of equal numbers may be off by a rounding, which a division by a tiny std would blow up.
    centred_N = centred_N.masked_fill(_has_zero_variance(r_N, group_N), 0.0)
    std_N = _std(r_N, centred_N, group_N, scale, sample_std)
    if baseline == "none":
        out_N = r_N
    elif baseline == "leave_one_out":
        out_N = centred_N * n_N / (n_N - 1).clamp(min=1)
    else:
        out_N = centred_N
    if keep_singletons:
        out_N = torch.where(n_N == 1, r_N, out_N)
        std_N = torch.where(n_N == 1, 1.0, std_N) if std_N is not None and scale == "group" else std_N
    return out_N if std_N is None else torch.where(std_N > 0, out_N / (std_N + eps), 0.0)


def _std(r_N: Tensor, centred_N: Tensor, group_N: Tensor, scale: str, sample_std: bool) -> Tensor | None:
    """Return the std of each reward's group or of the batch, from centred sums; None for scale "none"."""
    if scale == "none":
        return None
    if scale == "group":
        n_N = _group_sum(torch.ones_like(r_N), group_N)
        return (_group_sum(centred_N**2, group_N) / (n_N - int(sample_std)).clamp(min=1)).sqrt()
    zero_variance, divisor = r_N.max() == r_N.min(), max(1, r_N.numel() - int(sample_std))
    return (((r_N - r_N.mean()) ** 2).sum() / divisor).sqrt().masked_fill(zero_variance, 0.0).expand_as(r_N)


def _group_sum(value_N: Tensor, group_N: Tensor) -> Tensor:
    """Return, at each value's place, the sum over its group; `group_N` counts from 0."""
    return torch.zeros_like(value_N).index_add_(0, group_N, value_N)[group_N]


def _has_zero_variance(r_N: Tensor, group_N: Tensor) -> Tensor:
    low_N = torch.zeros_like(r_N).scatter_reduce_(0, group_N, r_N, "amin", include_self=False)
    high_N = torch.zeros_like(r_N).scatter_reduce_(0, group_N, r_N, "amax", include_self=False)
    return (low_N == high_N)[group_N]


def _to_tokens(advantage_N: Tensor, sequence_ids_T: Tensor) -> Tensor:
    padded = torch.cat([advantage_N, advantage_N.new_zeros(1)])  # -1 picks the last entry, a 0
    return padded[sequence_ids_T]
