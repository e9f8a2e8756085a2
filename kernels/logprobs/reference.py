"""Log-probs and entropies in plain torch, by row chunks, with hand-written gradients: the specification.

For one token with raw logits x, y = softcap tanh(x / softcap), z = y / temperature, p = softmax(z):
    d logp / d z_v = [v = target] - p_v
    d entropy / d z_v = -p_v (log p_v + entropy)
    d z_v / d x_v = (1 - tanh(x_v / softcap)^2) / temperature
`fused` has the same functions with the same signatures; the operators choose between the two and connect forward and
backward. Arguments are checked before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import compute_dtype
from .inputs import BackwardInputs, LinearInputs, LogitsInputs
from .vocabulary import Scaling, Statistics

# One chunk of float32 logits takes 64 MiB; about five of that size are alive at the peak of a backward.
CHUNK_ELEMENTS = 1 << 24


def linear_forward(inputs: LinearInputs, entropy: bool, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (logp [T], entropy [T] or [0], lse [T], residual [T, D] or [0]); 0 for masked tokens.

    `save`: make the residual d logp / d hidden too, in the dtype of the hidden states.
    """
    hidden_TD, scaling, shard = inputs.hidden_TD, inputs.scaling, inputs.shard
    head = _Head(inputs)
    logp_T = hidden_TD.new_zeros(hidden_TD.shape[0], dtype=head.dtype)
    lse_T = torch.zeros_like(logp_T)
    entropy_T = torch.zeros_like(logp_T) if entropy else logp_T.new_empty(0)
    residual_TD = hidden_TD.new_zeros(hidden_TD.shape if save else 0)
    for rows in _row_chunks(inputs.mask_T, hidden_TD.shape[0], shard.largest):
        raw, target = head.logits(hidden_TD[rows]), inputs.target_T[rows] - shard.start
        statistics = _statistics(scaling.scale(raw), target, entropy).over(shard)
        logp_T[rows], lse_T[rows] = statistics.logp(), statistics.lse()
        if entropy:
            entropy_T[rows] = statistics.entropy()
        if save:
            lse = statistics.lse()
            one = BackwardInputs(lse, lse.new_empty(0), torch.ones_like(lse), None)
            grad_raw = _logit_gradient(raw, target, scaling, one)
            residual_TD[rows] = shard.all_sum(head.times_weight(grad_raw)).to(residual_TD.dtype)
    return logp_T, entropy_T, lse_T, residual_TD


def linear_backward(
    inputs: LinearInputs, given: BackwardInputs, needed: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of hidden, weight and bias, each [0] where not `needed`."""
    hidden_TD, bias_V, shard = inputs.hidden_TD, inputs.bias_V, inputs.shard
    head = _Head(inputs)
    grad_TD = hidden_TD.new_zeros(hidden_TD.shape if needed[0] else 0)
    grad_VD = torch.zeros_like(head.weight_VD) if needed[1] else hidden_TD.new_empty(0)
    grad_V = torch.zeros_like(head.weight_VD[:, 0]) if needed[2] else hidden_TD.new_empty(0)
    for rows in _row_chunks(inputs.mask_T, hidden_TD.shape[0], shard.largest):
        raw, target = head.logits(hidden_TD[rows]), inputs.target_T[rows] - shard.start
        grad_raw = _logit_gradient(raw, target, inputs.scaling, _rows_of(given, rows))
        if needed[0]:
            grad_TD[rows] = shard.all_sum(head.times_weight(grad_raw)).to(grad_TD.dtype)
        if needed[1]:
            grad_VD.addmm_(grad_raw.T, head.widened(hidden_TD[rows]))
        if needed[2]:
            grad_V += grad_raw.sum(0)
    return grad_TD, grad_VD.to(inputs.weight_VD.dtype), grad_V if bias_V is None else grad_V.to(bias_V.dtype)


class _Head:
    """The output layer in the compute dtype."""

    def __init__(self, inputs: LinearInputs) -> None:
        self.dtype, self.autocast = compute_dtype(inputs.hidden_TD), inputs.autocast
        self.weight_VD = self.widened(inputs.weight_VD)
        self.bias_V = None if inputs.bias_V is None else inputs.bias_V.to(self.dtype)

    def logits(self, hidden_LD: Tensor) -> Tensor:
        return F.linear(self.widened(hidden_LD), self.weight_VD, self.bias_V)

    def widened(self, matrix: Tensor) -> Tensor:
        """Return a factor of a product: rounded as autocast would, and then exact."""
        return (matrix if self.autocast is None else matrix.to(self.autocast)).to(self.dtype)

    def times_weight(self, grad_LV: Tensor) -> Tensor:
        return grad_LV @ self.weight_VD


def logits_forward(inputs: LogitsInputs, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (logp [T], entropy [T] or [0], lse [T]); 0 for masked tokens."""
    logits_TV, shard = inputs.logits_TV, inputs.shard
    logp_T = logits_TV.new_zeros(logits_TV.shape[0], dtype=compute_dtype(logits_TV))
    lse_T = torch.zeros_like(logp_T)
    entropy_T = torch.zeros_like(logp_T) if entropy else logp_T.new_empty(0)
    for rows in _row_chunks(inputs.mask_T, logits_TV.shape[0], shard.largest):
        z_LV, target = inputs.scaling_of(rows).scale(logits_TV[rows].to(logp_T.dtype)), inputs.target_T[rows]
        statistics = _statistics(z_LV, target - shard.start, entropy).over(shard)
        logp_T[rows], lse_T[rows] = statistics.logp(), statistics.lse()
        if entropy:
            entropy_T[rows] = statistics.entropy()
    return logp_T, entropy_T, lse_T


def logits_backward(inputs: LogitsInputs, given: BackwardInputs, out_TV: Tensor) -> None:
    """Write the gradient of the logits to `out_TV`, which may be the logits themselves."""
    for rows in _row_chunks(inputs.mask_T, *inputs.logits_TV.shape):
        raw, target = inputs.logits_TV[rows].to(given.lse_T.dtype), inputs.target_T[rows] - inputs.shard.start
        grad_raw = _logit_gradient(raw, target, inputs.scaling_of(rows), _rows_of(given, rows))
        out_TV[rows] = grad_raw.to(out_TV.dtype)
    if inputs.mask_T is not None:
        out_TV[~inputs.mask_T] = 0


def _row_chunks(mask_T: Tensor | None, tokens: int, vocabulary: int) -> list[slice | Tensor]:
    """Return row selections (slices, or pieces of the index of loss tokens) of at most CHUNK_ELEMENTS logits each."""
    rows = max(1, CHUNK_ELEMENTS // max(1, vocabulary))
    if mask_T is None:
        return [slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]
    kept_L = mask_T.nonzero().squeeze(1)
    return list(kept_L.split(rows)) if kept_L.numel() else []


def _rows_of(given: BackwardInputs, rows: slice | Tensor) -> BackwardInputs:
    if given.grad_entropy_T is None:
        return BackwardInputs(given.lse_T[rows], given.entropy_T, given.grad_logp_T[rows], None)
    return BackwardInputs(given.lse_T[rows], given.entropy_T[rows], given.grad_logp_T[rows], given.grad_entropy_T[rows])


def _statistics(z_LV: Tensor, target_L: Tensor, entropy: bool) -> Statistics:
    """Return the softmax's statistics. Targets outside 0..V-1 are another rank's: their logit is 0."""
    # A rank may hold nothing but -inf; the differences below must stay numbers.
    top_L = z_LV.amax(1).clamp(min=torch.finfo(z_LV.dtype).min)
    below_LV = z_LV - top_L.unsqueeze(1)
    e_LV = below_LV.exp()
    # The clamp makes 0 * log 0 a 0 where a logit is -inf.
    weighted_L = (e_LV * below_LV.clamp(min=torch.finfo(z_LV.dtype).min)).sum(1) if entropy else None
    own_L = (target_L >= 0) & (target_L < z_LV.shape[1])
    logit_L = z_LV.gather(1, torch.where(own_L, target_L, 0).unsqueeze(1)).squeeze(1)
    return Statistics(top_L, e_LV.sum(1), weighted_L, torch.where(own_L, logit_L, 0))


def _logit_gradient(raw_LV: Tensor, target_L: Tensor, scaling: Scaling, given_L: BackwardInputs) -> Tensor:
    """Return the gradient of the raw logits: the three equations at the head of this file, chained."""
    temperature, softcap = scaling
    log_p_LV = scaling.scale(raw_LV) - given_L.lse_T.unsqueeze(1)
    p_LV = log_p_LV.exp()
    grad_LV = p_LV * -given_L.grad_logp_T.unsqueeze(1)
    own_L = (target_L >= 0) & (target_L < raw_LV.shape[1])
    on_target_L = torch.where(own_L, given_L.grad_logp_T, 0)
    grad_LV.scatter_add_(1, torch.where(own_L, target_L, 0).unsqueeze(1), on_target_L.unsqueeze(1))
    if given_L.grad_entropy_T is not None:
        surprise_LV = log_p_LV.clamp(min=torch.finfo(p_LV.dtype).min) + given_L.entropy_T.unsqueeze(1)
        grad_LV -= given_L.grad_entropy_T.unsqueeze(1) * p_LV * surprise_LV
    if softcap is not None:
        grad_LV *= 1 - torch.tanh(raw_LV / softcap) ** 2
    return grad_LV.div_(temperature)
