"""Regression of a trajectory's log-ratio on a number: SPPO (Wu et al. 2024, arXiv 2405.00675; uclaml/SPPO)."""

from __future__ import annotations

from torch import Tensor

from aslfast.learner.losses.by_sequence import sequence_sum


def squared_loss(log_ratio_L: Tensor, target_L: Tensor, sequence_L: Tensor) -> Tensor:
    """Return the loss of each token [L], which is that of its trajectory s.

        l = (sum over s of log pi(t) / mu(t) - target)^2
    SPPO's target is (P - 1/2) / beta, P the answer's win rate, in nats; mu is the policy of the iteration before.
    """
    return (sequence_sum(log_ratio_L, sequence_L) - target_L).square()
