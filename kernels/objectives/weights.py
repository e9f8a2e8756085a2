"""Importance weights of a sampler whose probabilities differ from the trainer's: plain torch, without a gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..arguments import as_mask, check_choice, check_not_negative, check_tensor, compute_dtype
from .terms import bounded, sequence_mean, slots, summed


# More than 6 parameters: the public function takes all options by name.
@torch.no_grad()
def importance_weights(
    old_logp_T: Tensor,
    sampler_logp_T: Tensor,
    *,
    low: float = 0.0,
    high: float = math.inf,
    mode: str = "truncate",
    level: str = "token",
    sequence_ids_T: Tensor | None = None,
    mask_T: Tensor | None = None,
) -> Tensor:
    """Return w_t [T] for `policy_loss(weights_T=...)`, without a gradient; 0 for masked tokens and padding.

        d_t = old_t - sampler_t, and 0 where sampler_t is NaN: a sampler that gave no log-prob gets the weight 1
        level "token": w_t = exp(d_t);  "sequence": w_t = exp(sum of d over t's sequence)
              "geometric": w_t = exp(mean of d over t's sequence)
        mode "truncate": clip(w, low, high) (truncated importance sampling, Yao et al. 2025)
             "mask": w where low <= w <= high, else 0 (IcePop by tokens, masked importance sampling by sequences)
    TRL calls these token_truncate, token_mask, sequence_truncate and sequence_mask (GRPOConfig,
    `vllm_importance_sampling_mode`, with clip_min and clip_max). Log-ratios are clamped to +-20 before exp.

    Log-probs [T] in nats. sequence_ids_T [T] integers, -1 for padding: needed for a level above the token.
    mask_T [T]: what is not 0 is a loss token. No Triton path: a few operations per token, on any device.
    Raises ValueError or TypeError naming the argument.
    """
    check_tensor("old_logp_T", old_logp_T, (None,), "float")
    check_tensor("sampler_logp_T", sampler_logp_T, tuple(old_logp_T.shape), "float", old_logp_T)
    check_choice("mode", mode, ("truncate", "mask"))
    check_choice("level", level, ("token", "sequence", "geometric"))
    check_not_negative("low", low)
    check_not_negative("high", high, infinite=True)
    if sequence_ids_T is None and level != "token":
        raise ValueError(f'sequence_ids_T: got None, expected [T] for level="{level}"')
    mask_T = as_mask("mask_T", mask_T, old_logp_T)
    keep_T = torch.ones_like(old_logp_T, dtype=torch.bool) if mask_T is None else mask_T
    if sequence_ids_T is not None:
        check_tensor("sequence_ids_T", sequence_ids_T, tuple(old_logp_T.shape), "integer", old_logp_T)
        keep_T = keep_T & (sequence_ids_T >= 0)
    dtype = compute_dtype(old_logp_T)
    d_T = (old_logp_T.to(dtype) - sampler_logp_T.to(dtype)).masked_fill(sampler_logp_T.isnan() | ~keep_T, 0.0)
    if sequence_ids_T is not None and level == "sequence":
        slot_T = slots(sequence_ids_T)
        d_T = summed(d_T, slot_T)[slot_T]
    elif sequence_ids_T is not None and level == "geometric":
        d_T = sequence_mean(d_T, sequence_ids_T, keep_T)
    weight_T = bounded(d_T).exp()
    if mode == "truncate":
        weight_T = weight_T.clamp(low, high)
    else:
        weight_T = weight_T.masked_fill((weight_T < low) | (weight_T > high), 0.0)
    return weight_T.masked_fill(~keep_T, 0.0)
