"""Log-probs and entropies in plain torch, by row chunks, with hand-written gradients.

For one token with raw logits x, y = softcap tanh(x / softcap), z = y / temperature, p = softmax(z):
    d logp / d z_v = [v = target] - p_v
    d entropy / d z_v = -p_v (log p_v + entropy)
    d z_v / d x_v = (1 - tanh(x_v / softcap)^2) / temperature
`logprob_triton` has the same functions with the same signatures; `logprob_ops` chooses between the two and joins
forward and backward. Arguments are checked before.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import compute_dtype
from .vocabulary import Scaling, Shard, Statistics

# One chunk of float32 logits takes 64 MiB; about five of that size are alive at the peak of a backward.
CHUNK_ELEMENTS = 1 << 24


def linear_forward(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_T: Tensor,
    mask_T: Tensor | None,
    scaling: Scaling,
    entropy: bool,
    save: bool,
    shard: Shard,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logp [T], entropy [T] or [0], lse [T], residual [T, D] or [0]); 0 for masked tokens.

    `save`: the residual d logp / d hidden is made too, in the dtype of the hidden states.
    """
    head = _Head(weight_VD, bias_V, compute_dtype(hidden_TD))
    logp_T = hidden_TD.new_zeros(hidden_TD.shape[0], dtype=head.dtype)
    lse_T = torch.zeros_like(logp_T)
    entropy_T = torch.zeros_like(logp_T) if entropy else logp_T.new_empty(0)
    residual_TD = hidden_TD.new_zeros(hidden_TD.shape if save else 0)
    one = torch.ones_like(logp_T)
    for rows in _row_chunks(mask_T, hidden_TD.shape[0], shard.largest):
        raw, target = head.logits(hidden_TD[rows]), target_T[rows] - shard.start
        statistics = _statistics(scaling.scale(raw), target, entropy).over(shard)
        logp_T[rows], lse_T[rows] = statistics.logp(), statistics.lse()
        if entropy:
            entropy_T[rows] = statistics.entropy()
        if save:
            grad_raw = _logit_gradient(raw, target, scaling, statistics.lse(), one[rows], None, None)
            residual_TD[rows] = shard.all_sum(head.times_weight(grad_raw)).to(residual_TD.dtype)
    return logp_T, entropy_T, lse_T, residual_TD


def linear_backward(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_T: Tensor,
    mask_T: Tensor | None,
    lse_T: Tensor,
    entropy_T: Tensor,
    grad_logp_T: Tensor,
    grad_entropy_T: Tensor | None,
    scaling: Scaling,
    shard: Shard,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias, each [0] where not `needed`."""
    head = _Head(weight_VD, bias_V, compute_dtype(hidden_TD))
    grad_TD = hidden_TD.new_zeros(hidden_TD.shape if needed[0] else 0)
    grad_VD = torch.zeros_like(head.weight_VD) if needed[1] else hidden_TD.new_empty(0)
    grad_V = torch.zeros_like(head.weight_VD[:, 0]) if needed[2] else hidden_TD.new_empty(0)
    for rows in _row_chunks(mask_T, hidden_TD.shape[0], shard.largest):
        with_entropy = (None, None) if grad_entropy_T is None else (entropy_T[rows], grad_entropy_T[rows])
        raw, target = head.logits(hidden_TD[rows]), target_T[rows] - shard.start
        grad_raw = _logit_gradient(raw, target, scaling, lse_T[rows], grad_logp_T[rows], *with_entropy)
        if needed[0]:
            grad_TD[rows] = shard.all_sum(head.times_weight(grad_raw)).to(grad_TD.dtype)
        if needed[1]:
            grad_VD.addmm_(grad_raw.T, hidden_TD[rows].to(head.dtype))
        if needed[2]:
            grad_V += grad_raw.sum(0)
    return grad_TD, grad_VD.to(weight_VD.dtype), grad_V if bias_V is None else grad_V.to(bias_V.dtype)


class _Head:
    """The output layer in the compute dtype."""

    def __init__(self, weight_VD: Tensor, bias_V: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.weight_VD = weight_VD.to(dtype)
        self.bias_V = None if bias_V is None else bias_V.to(dtype)

    def logits(self, hidden_LD: Tensor) -> Tensor:
        return F.linear(hidden_LD.to(self.dtype), self.weight_VD, self.bias_V)

    def times_weight(self, grad_LV: Tensor) -> Tensor:
        return grad_LV @ self.weight_VD


def logits_forward(
    logits_TV: Tensor, target_T: Tensor, mask_T: Tensor | None, scaling: Scaling, entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(logp [T], entropy [T] or [0], lse [T]); 0 for masked tokens."""
    logp_T = logits_TV.new_zeros(logits_TV.shape[0], dtype=compute_dtype(logits_TV))
    lse_T = torch.zeros_like(logp_T)
    entropy_T = torch.zeros_like(logp_T) if entropy else logp_T.new_empty(0)
    for rows in _row_chunks(mask_T, *logits_TV.shape):
        statistics = _statistics(scaling.scale(logits_TV[rows].to(logp_T.dtype)), target_T[rows], entropy)
        logp_T[rows], lse_T[rows] = statistics.logp(), statistics.lse()
        if entropy:
            entropy_T[rows] = statistics.entropy()
    return logp_T, entropy_T, lse_T


def logits_backward(
    logits_TV: Tensor,
    target_T: Tensor,
    mask_T: Tensor | None,
    lse_T: Tensor,
    entropy_T: Tensor,
    grad_logp_T: Tensor,
    grad_entropy_T: Tensor | None,
    scaling: Scaling,
    out_TV: Tensor,
) -> None:
    """Writes the gradient of the logits to `out_TV`, which may be `logits_TV` itself."""
    for rows in _row_chunks(mask_T, *logits_TV.shape):
        with_entropy = (None, None) if grad_entropy_T is None else (entropy_T[rows], grad_entropy_T[rows])
        raw = logits_TV[rows].to(lse_T.dtype)
        grad_raw = _logit_gradient(raw, target_T[rows], scaling, lse_T[rows], grad_logp_T[rows], *with_entropy)
        out_TV[rows] = grad_raw.to(out_TV.dtype)
    if mask_T is not None:
        out_TV[~mask_T] = 0


def _row_chunks(mask_T: Tensor | None, tokens: int, vocabulary: int) -> list[Any]:
    """Row selections (slices, or pieces of the live index) of at most CHUNK_ELEMENTS logits each."""
    rows = max(1, CHUNK_ELEMENTS // max(1, vocabulary))
    if mask_T is None:
        return [slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]
    live_L = mask_T.nonzero().squeeze(1)
    return list(live_L.split(rows)) if live_L.numel() else []


def _statistics(z_LV: Tensor, target_L: Tensor, entropy: bool) -> Statistics:
    """Targets outside 0..V-1 are another rank's: their logit is 0."""
    top_L = z_LV.amax(1)
    below_LV = z_LV - top_L.unsqueeze(1)
    e_LV = below_LV.exp()
    # The clamp makes 0 * log 0 a 0 where a logit is -inf.
    weighted_L = (e_LV * below_LV.clamp(min=torch.finfo(z_LV.dtype).min)).sum(1) if entropy else None
    own_L = (target_L >= 0) & (target_L < z_LV.shape[1])
    logit_L = z_LV.gather(1, torch.where(own_L, target_L, 0).unsqueeze(1)).squeeze(1)
    return Statistics(top_L, e_LV.sum(1), weighted_L, torch.where(own_L, logit_L, 0))


def _logit_gradient(
    raw_LV: Tensor,
    target_L: Tensor,
    scaling: Scaling,
    lse_L: Tensor,
    grad_logp_L: Tensor,
    entropy_L: Tensor | None,
    grad_entropy_L: Tensor | None,
) -> Tensor:
    """The gradient with respect to the raw logits: the three equations at the head of this file, chained."""
    temperature, softcap = scaling
    log_p_LV = scaling.scale(raw_LV) - lse_L.unsqueeze(1)
    p_LV = log_p_LV.exp()
    grad_LV = p_LV * -grad_logp_L.unsqueeze(1)
    own_L = (target_L >= 0) & (target_L < raw_LV.shape[1])
    on_target_L = torch.where(own_L, grad_logp_L, 0)
    grad_LV.scatter_add_(1, torch.where(own_L, target_L, 0).unsqueeze(1), on_target_L.unsqueeze(1))
    if entropy_L is not None and grad_entropy_L is not None:
        surprise_LV = log_p_LV.clamp(min=torch.finfo(p_LV.dtype).min) + entropy_L.unsqueeze(1)
        grad_LV -= grad_entropy_L.unsqueeze(1) * p_LV * surprise_LV
    if softcap is not None:
        grad_LV *= 1 - torch.tanh(raw_LV / softcap) ** 2
    return grad_LV.div_(temperature)
