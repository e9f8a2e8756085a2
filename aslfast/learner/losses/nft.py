"""Negative-aware fine-tuning: likelihood of the right answers, and of the wrong ones under an implied negative policy.

Chen et al. 2025, "Bridging Supervised Learning and Reinforcement Learning in Math Reasoning", arXiv 2505.18116; its
code is github.com/NVlabs/NFT.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aslfast.learner.losses.importance import MAX_LOG_RATIO

FLOOR = 1.0  # epsilon of the paper; clamp_negative of its code


def nft_loss(log_ratio_L: Tensor, success_L: Tensor, rate_L: Tensor, weight: str) -> Tensor:
    """Return the loss of each token [L].

        R_t = pi(t) / mu(t), q = share of successes in the group, 0 < q < 1
        success:  l_t = -w(q) log R_t
        failure:  l_t = -w(q) log max_v((1 - q R_t) / (1 - q), 1)
    max_v has the value of max and the gradient of its first argument (straight through). w(q): "linear" 1 - q, which on
    policy is the gradient of Dr. GRPO; "root" sqrt((1 - q) / q), that of GRPO; "one" 1.
    We differ: the code bounds q to [0.02, 0.98], which only groups beyond 50 could reach, and log R above by 10; ours
    is bounded to +-20. The code divides the sum over tokens by 1000 for each trajectory, we by loss.aggregate.
    """
    bounded_L = log_ratio_L.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    implied_L = (1 - rate_L * bounded_L.exp()) / (1 - rate_L)
    floored_L = implied_L.detach().clamp(min=FLOOR)
    # not implied + (floored - implied): of a large ratio that rounds to 0, whose logarithm is infinite
    log_implied_L = floored_L.log() + (implied_L - implied_L.detach()) / floored_L
    loss_L = -torch.where(success_L, bounded_L, log_implied_L)
    return loss_L * _weight(rate_L, weight)


def _weight(rate_L: Tensor, weight: str) -> Tensor:
    if weight == "one":
        return torch.ones_like(rate_L)
    return 1 - rate_L if weight == "linear" else ((1 - rate_L) / rate_L).sqrt()
