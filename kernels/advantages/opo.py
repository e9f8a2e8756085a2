"""OPO's advantage: the optimal baseline, a mean of the group's rewards weighted by length. Plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_choice, check_tensor, compute_dtype


@torch.no_grad()
def opo_advantage(rewards_N: Tensor, group_ids_N: Tensor, lengths_N: Tensor, *, singleton: str = "zero") -> Tensor:
    """Return A_i = r_i - sum_g(length r) / sum_g(length) [N], over the group g of i.

    OPO, arXiv 2505.23585, and verl's `opo`, which has singleton "keep": a group of one keeps its reward; "zero": it
    gives 0, as the formula does. A group of lengths 0 has the baseline 0.
    rewards_N [N] floating point, group_ids_N [N] integers in any order, lengths_N [N]: loss tokens. Sums are float64,
    the result is float32 (float64 for float64 rewards). No Triton path. Raises ValueError or TypeError.
    """
    check_tensor("rewards_N", rewards_N, (None,), "float")
    check_tensor("group_ids_N", group_ids_N, tuple(rewards_N.shape), "integer", rewards_N)
    check_tensor("lengths_N", lengths_N, tuple(rewards_N.shape), "number", rewards_N)
    check_choice("singleton", singleton, ("zero", "keep"))
    r_N, length_N = rewards_N.double(), lengths_N.double()
    _, group_N = torch.unique(group_ids_N, return_inverse=True)
    sums = [torch.zeros_like(r_N).index_add_(0, group_N, x)[group_N] for x in (length_N * r_N, length_N, r_N * 0 + 1)]
    weighted_N, total_N, size_N = sums
    baseline_N = torch.where(total_N > 0, weighted_N / total_N.clamp(min=1e-300), 0.0)
    baseline_N = baseline_N.masked_fill(size_N == 1, 0.0) if singleton == "keep" else baseline_N
    return (r_N - baseline_N).to(compute_dtype(rewards_N))
