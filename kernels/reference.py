"""The specification: every operation in plain torch, any device. Arguments are checked by the public functions."""

from .reference_advantage import group_advantage
from .reference_logprob import linear_logprob, logprob
from .reference_policy_loss import PolicyMetrics, policy_loss

__all__ = ["PolicyMetrics", "group_advantage", "linear_logprob", "logprob", "policy_loss"]
