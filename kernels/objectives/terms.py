"""What the objectives share: the checks, log-ratios, means over sequences, and the sum over tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import as_mask, check_choice, check_positive, check_tensor, compute_dtype
from ..losses.reference import MAX_LOG_RATIO


def checked(logp_T: Tensor, others: dict[str, Tensor], mask_T: Tensor | None) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return logp [T] with its gradient, the others [T] without one, in the compute dtype and 0 where masked, and the
    mask as bool. Raise ValueError or TypeError naming the argument."""
    check_tensor("logp_T", logp_T, (None,), "float")
    for name, tensor in others.items():
        check_tensor(name, tensor, tuple(logp_T.shape), "float", logp_T)
    mask_T = as_mask("mask_T", mask_T, logp_T)
    keep_T = torch.ones_like(logp_T, dtype=torch.bool) if mask_T is None else mask_T
    dtype = compute_dtype(logp_T)
    rest = [x.detach().to(dtype).masked_fill(~keep_T, 0.0) for x in others.values()]
    return logp_T.to(dtype).masked_fill(~keep_T, 0.0), rest, keep_T


def bounded(log_ratio_T: Tensor) -> Tensor:
    """Return the log-ratio clamped to +-20, beyond which it passes no gradient."""
    return log_ratio_T.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def slots(ids_T: Tensor) -> Tensor:
    """Return each token's sequence as a number from 0."""
    return torch.unique(ids_T, return_inverse=True)[1]


def summed(value_T: Tensor, slot_T: Tensor) -> Tensor:
    """Return the sums over sequences: as many slots as tokens, at most."""
    return torch.zeros_like(value_T).index_add(0, slot_T, value_T)


def sequence_mean(value_T: Tensor, ids_T: Tensor, keep_T: Tensor) -> Tensor:
    """Return, at each token's place, the mean over the loss tokens of its sequence (0 where it has none)."""
    slot_T = slots(ids_T)
    return (summed(value_T * keep_T, slot_T) / summed(keep_T.to(value_T.dtype), slot_T).clamp(min=1))[slot_T]


def aggregate_loss(
    loss_T: Tensor,
    *,
    mask_T: Tensor | None = None,
    sequence_ids_T: Tensor | None = None,
    aggregate: str = "token_mean",
    normalizer: float | None = None,
) -> Tensor:
    """Return the scalar that `policy_loss` makes of per-token losses: sum_t l_t / normalizer, or for "sequence_mean"
    sum_s mean_{t in s} l_t / normalizer, over loss tokens (mask not 0, sequence id >= 0); 0 without any.

    aggregate, normalizer and its defaults: as in `policy_loss`. Raises ValueError or TypeError naming the argument.
    """
    loss_T, _, keep_T = checked(loss_T, {}, mask_T)
    check_choice("aggregate", aggregate, ("token_mean", "sequence_mean", "constant"))
    if normalizer is not None or aggregate == "constant":
        check_positive("normalizer", normalizer)
    if sequence_ids_T is not None:
        check_tensor("sequence_ids_T", sequence_ids_T, tuple(loss_T.shape), "integer", loss_T)
        keep_T = keep_T & (sequence_ids_T >= 0)
        loss_T = loss_T.masked_fill(~keep_T, 0.0)
    if aggregate != "sequence_mean":
        return loss_T.sum() / (keep_T.sum().clamp(min=1) if normalizer is None else normalizer)
    if sequence_ids_T is None:
        raise ValueError('sequence_ids_T: got None, expected [T] for aggregate="sequence_mean"')
    slot_T = slots(sequence_ids_T)
    count_S = summed(keep_T.to(loss_T.dtype), slot_T)
    share_T = keep_T / count_S[slot_T].clamp(min=1)
    return (loss_T * share_T).sum() / ((count_S > 0).sum().clamp(min=1) if normalizer is None else normalizer)
