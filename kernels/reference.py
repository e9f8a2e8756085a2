"""The specification: every operation in plain torch, any device. Arguments are checked by the public functions."""

from .reference_advantage import group_advantage
from .reference_logprob import linear_backward, linear_forward, logits_backward, logits_forward
from .reference_policy_loss import PolicyMetrics, policy_loss

__all__ = [
    "PolicyMetrics",
    "group_advantage",
    "linear_backward",
    "linear_forward",
    "logits_backward",
    "logits_forward",
    "policy_loss",
]
