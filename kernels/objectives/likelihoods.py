"""Likelihoods of what was sampled or given: SFT, and NFT, which also learns from wrong answers. Conventions as in
`surrogates`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_choice, check_not_negative, check_positive, check_tensor
from .terms import bounded, checked


def sft_loss(
    logp_T: Tensor, *, weights_T: Tensor | None = None, dynamic: bool = False, mask_T: Tensor | None = None
) -> Tensor:
    """Return l = -w logp; `dynamic`: l = -w sg(p) logp with p = exp(logp).

    The negative log-likelihood of demonstrations, or with weights 1 for right answers and 0 for others of one's own
    (rejection fine-tuning). dynamic: DFT, arXiv 2508.05629, and TRL's `loss_type="dft"`.
    weights_T [T]: any number, without a gradient; None: 1.
    """
    others = {} if weights_T is None else {"weights_T": weights_T}
    logp_T, weights, keep_T = checked(logp_T, others, mask_T)
    loss_T = -logp_T * weights[0] if weights else -logp_T
    return loss_T * (logp_T.detach().exp() if dynamic else 1.0) * keep_T


# More than 6 parameters: options by name.
def nft_loss(
    logp_T: Tensor,
    old_logp_T: Tensor,
    success_T: Tensor,
    rate_T: Tensor,
    *,
    weight: str = "linear",
    floor: float = 1.0,
    failures: float = 1.0,
    mask_T: Tensor | None = None,
) -> Tensor:
    """Return, with r = exp(d) and q the share of right answers to the question, 0 < q < 1:

        right: l = -w(q) log r
        wrong: l = -w(q) failures log max_v((1 - q r) / (1 - q), floor)
    max_v has the value of max and the gradient of its first argument. w(q): "linear" 1 - q, which on policy is the
    gradient of Dr. GRPO; "root" sqrt((1 - q) / q), that of GRPO; "one" 1.
    NFT, arXiv 2505.18116; its code (github.com/NVlabs/NFT) calls floor `clamp_negative`, failures `neg_weight`, w(q)
    `normalize` 1, 2 and 0. That bounds q to [0.02, 0.98] besides, and d above by 10; here q stays and d ends at +-20.

    success_T [T]: what is not 0 belongs to a right answer. rate_T [T]: q. Sum up with aggregate "constant".
    """
    check_choice("weight", weight, ("linear", "root", "one"))
    check_positive("floor", floor)
    check_not_negative("failures", failures)
    check_tensor("success_T", success_T, tuple(logp_T.shape), "number", logp_T)
    logp_T, (old_T, q_T), keep_T = checked(logp_T, {"old_logp_T": old_logp_T, "rate_T": rate_T}, mask_T)
    q_T = q_T.masked_fill(~keep_T, 0.5)
    if not bool(((q_T > 0) & (q_T < 1)).all()):
        raise ValueError("rate_T: expected numbers above 0 and below 1; mask out questions of one outcome")
    d_T = bounded(logp_T - old_T)
    implied_T = (1 - q_T * d_T.exp()) / (1 - q_T)
    floored_T = implied_T.detach().clamp(min=floor)
    # Not implied + sg(floored - implied): of a large ratio that rounds to 0, whose logarithm is infinite.
    wrong_T = floored_T.log() + (implied_T - implied_T.detach()) / floored_T
    w_T = {"linear": 1 - q_T, "root": ((1 - q_T) / q_T).sqrt(), "one": torch.ones_like(q_T)}[weight]
    return (-w_T * torch.where(success_T != 0, d_T, failures * wrong_T)).masked_fill(~keep_T, 0.0)
