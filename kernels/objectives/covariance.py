"""Clip-Cov and KL-Cov (arXiv 2505.22617): the tokens whose covariance of log-prob and advantage is high, which take
the entropy down, are left out of the gradient or held back by a KL term. Conventions as in `surrogates`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_not_negative, check_positive
from .terms import bounded, checked


def _covariance(logp_T: Tensor, a_T: Tensor, keep_T: Tensor) -> Tensor:
    """Return (A - mean A)(logp - mean logp), means over loss tokens; -inf elsewhere."""
    count, now_T = keep_T.sum().clamp(min=1), logp_T.detach()
    product_T = (a_T - a_T.sum() / count) * (now_T - now_T.sum() / count)  # both are 0 where masked
    return product_T.masked_fill(~keep_T, -torch.inf)


# More than 6 parameters: options by name.
def clip_cov_loss(
    logp_T: Tensor,
    old_logp_T: Tensor,
    advantage_T: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    share: float = 0.0002,
    bounds: tuple[float, float] = (1.0, 5.0),
    mask_T: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return PPO's l = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), but 0 for a random choice of
    max(1, floor(share n)) of n loss tokens among those that PPO does not clip and whose covariance is within `bounds`.

    Clip-Cov, and verl's `clip_cov`, whose numbers are the defaults. generator: of the choice, on the tensors' device.
    """
    check_not_negative("clip_low", clip_low, infinite=True)
    check_not_negative("clip_high", clip_high, infinite=True)
    check_positive("share", share)
    logp_T, (old_T, a_T), keep_T = checked(logp_T, {"old_logp_T": old_logp_T, "advantage_T": advantage_T}, mask_T)
    ratio_T = bounded(logp_T - old_T).exp()
    plain_T, clipped_T = -a_T * ratio_T, -a_T * ratio_T.clamp(1 - clip_low, 1 + clip_high)
    covariance_T = _covariance(logp_T, a_T, keep_T)
    open_T = (clipped_T <= plain_T) & (covariance_T > bounds[0]) & (covariance_T < bounds[1])
    found = open_T.nonzero().squeeze(1)
    order = torch.randperm(len(found), generator=generator, device=found.device)
    chosen = found[order[: max(1, int(share * int(keep_T.sum())))]]
    return torch.maximum(plain_T, clipped_T).index_fill(0, chosen, 0.0)


# More than 6 parameters: options by name.
def kl_cov_loss(
    logp_T: Tensor,
    old_logp_T: Tensor,
    advantage_T: Tensor,
    *,
    share: float = 0.0002,
    coefficient: float = 1.0,
    mask_T: Tensor | None = None,
) -> Tensor:
    """Return l = -r A, and -r A + coefficient |d| for the max(1, floor(share n)) of n loss tokens of the highest
    covariance.

    KL-Cov, and verl's `kl_cov`, whose share is the default (its actor's configuration has a coefficient of 0.1).
    """
    check_positive("share", share)
    check_not_negative("coefficient", coefficient)
    logp_T, (old_T, a_T), keep_T = checked(logp_T, {"old_logp_T": old_logp_T, "advantage_T": advantage_T}, mask_T)
    d_T, tokens = logp_T - old_T, int(keep_T.sum())
    loss_T = -a_T * bounded(d_T).exp()
    if not tokens:
        return loss_T
    highest = _covariance(logp_T, a_T, keep_T).topk(min(tokens, max(1, int(share * tokens)))).indices
    penalised_T = torch.zeros_like(keep_T).index_fill(0, highest, True)
    return loss_T + coefficient * d_T.abs() * penalised_T
