"""Estimators of the KL divergence between a policy and its reference, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_choice
from ..losses.reference import KL_KINDS
from .terms import bounded, checked


def kl_estimate(logp_T: Tensor, ref_logp_T: Tensor, kind: str = "k3", *, mask_T: Tensor | None = None) -> Tensor:
    """Return an estimate of KL(policy || reference) for each token [T] in nats, from samples of the policy.

        d = logp - ref
        k1: d;   k2: d^2 / 2;   k3: exp(-d) + d - 1;   abs: |d|
        k1+, k3+: the number of k1 or k3 with the gradient of k2 ("straight through")
    Source: Schulman 2020 (joschu.net/blog/kl-approx.html); the straight-through forms are verl's `kl_penalty`. k1 and
    k3 have the right mean, but their gradient's mean is not the divergence's; k2's is. d is clamped to +-20 in k3 and
    k3+ (verl also ends their value at 10). Masked tokens (mask 0) are never read and give 0; only `logp_T` receives a
    gradient.
    Raises ValueError or TypeError naming the argument.
    """
    check_choice("kind", kind, KL_KINDS)
    logp_T, (ref_T,), _ = checked(logp_T, {"ref_logp_T": ref_logp_T}, mask_T)
    d_T = logp_T - ref_T
    k2_T = d_T.square() / 2
    if kind == "k2":
        return k2_T
    if kind == "abs":
        return d_T.abs()
    value_T = d_T if kind.startswith("k1") else torch.expm1(bounded(-d_T)) - bounded(-d_T)
    straight_through_T = k2_T - k2_T.detach() + value_T.detach()
    return straight_through_T if kind.endswith("+") else value_T
