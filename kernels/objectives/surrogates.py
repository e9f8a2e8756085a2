"""Surrogates of the policy gradient beside those of `policy_loss`: the loss l_t of each token, to minimise.

In all of them d = logp - old, r = exp(d) with d clamped to +-20, A the advantage, sg stops the gradient. Log-probs and
advantages [T], in nats; tokens whose mask is 0 are never read and give 0; only `logp_T` receives a gradient. They raise
ValueError or TypeError naming the argument. `terms.aggregate_loss` adds them up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_choice, check_not_negative, check_positive, check_tensor
from .terms import bounded, checked, sequence_mean


def sapo_loss(
    logp_T: Tensor,
    old_logp_T: Tensor,
    advantage_T: Tensor,
    *,
    positive: float = 1.0,
    negative: float = 1.05,
    mask_T: Tensor | None = None,
) -> Tensor:
    """Return l = -A (4 / tau) sigmoid(tau (r - 1)), tau = `positive` where A > 0 and `negative` elsewhere.

    SAPO, arXiv 2511.20347 (whose temperatures are the defaults), with aggregate "sequence_mean".
    """
    check_positive("positive", positive)
    check_positive("negative", negative)
    logp_T, (old_T, a_T), _ = checked(logp_T, {"old_logp_T": old_logp_T, "advantage_T": advantage_T}, mask_T)
    tau_T = torch.where(a_T > 0, a_T.new_tensor(positive), a_T.new_tensor(negative))  # in a_T's dtype
    return -a_T * torch.sigmoid(tau_T * (bounded(logp_T - old_T).exp() - 1)) * (4 / tau_T)


# More than 6 parameters: options by name.
def gmpo_loss(
    logp_T: Tensor,
    old_logp_T: Tensor,
    advantage_T: Tensor,
    sequence_ids_T: Tensor,
    *,
    clip_low: float = 0.4,
    clip_high: float = 0.4,
    mask_T: Tensor | None = None,
) -> Tensor:
    """Return l_t = -mean_s(A) exp(mean_s(c)) for every token of a sequence s, with c = clip(d, -clip_low, clip_high)
    where that is the lower bound of A d, else d.

    GMPO, arXiv 2507.20673, and verl's `geo_mean`; with aggregate "sequence_mean". The clips are in nats.
    """
    check_not_negative("clip_low", clip_low, infinite=True)
    check_not_negative("clip_high", clip_high, infinite=True)
    logp_T, (old_T, a_T), keep_T = checked(logp_T, {"old_logp_T": old_logp_T, "advantage_T": advantage_T}, mask_T)
    check_tensor("sequence_ids_T", sequence_ids_T, tuple(logp_T.shape), "integer", logp_T)
    keep_T = keep_T & (sequence_ids_T >= 0)
    d_T = logp_T - old_T
    sign_T = a_T.sign()
    c_T = sign_T * torch.minimum(sign_T * d_T, sign_T * d_T.clamp(-clip_low, clip_high))
    mean_T = sequence_mean(c_T, sequence_ids_T, keep_T)
    return -sequence_mean(a_T, sequence_ids_T, keep_T) * bounded(mean_T).exp() * keep_T


# More than 6 parameters: options by name.
def dppo_loss(
    logp_T: Tensor,
    old_logp_T: Tensor,
    advantage_T: Tensor,
    *,
    divergence: str = "tv",
    low: float = 0.2,
    high: float = 0.2,
    ratio_cap: float = 20.0,
    mask_T: Tensor | None = None,
) -> Tensor:
    """Return l = -A sg(min(r, ratio_cap) valid) logp. A token is valid unless it has moved too far in the direction
    in which A would move it further, by the binary divergence of its own probabilities p = exp(logp), q = exp(old):

        "tv": p - q <= high where A > 0, p - q >= -low elsewhere
        "kl": k = q log(q / p) + (1 - q) log((1 - q + 1e-8) / (1 - p + 1e-8));  k <= high or p <= q where A > 0,
              k <= low or p >= q elsewhere
    DPPO, arXiv 2602.04879, and verl's `dppo_tv` and `dppo_kl`.
    """
    check_choice("divergence", divergence, ("tv", "kl"))
    check_not_negative("low", low)
    check_not_negative("high", high)
    check_positive("ratio_cap", ratio_cap)
    logp_T, (old_T, a_T), keep_T = checked(logp_T, {"old_logp_T": old_logp_T, "advantage_T": advantage_T}, mask_T)
    now_T = logp_T.detach()
    p_T, q_T = now_T.exp(), old_T.exp()
    if divergence == "tv":
        valid_T = torch.where(a_T > 0, p_T - q_T <= high, p_T - q_T >= -low)
    else:
        k_T = q_T * (old_T - now_T) + (1 - q_T) * torch.log((1 - q_T + 1e-8) / (1 - p_T + 1e-8))
        valid_T = torch.where(a_T > 0, (k_T <= high) | (p_T <= q_T), (k_T <= low) | (p_T >= q_T))
    ratio_T = bounded(now_T - old_T).exp().clamp(max=ratio_cap)
    return -a_T * ratio_T * (valid_T & keep_T) * logp_T
