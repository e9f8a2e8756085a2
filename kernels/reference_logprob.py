"""Log-probs and entropies in plain torch, by row chunks, with hand-written gradients.

For one token with raw logits x, y = softcap tanh(x / softcap), z = y / temperature, p = softmax(z):
    d logp / d z_v = [v = target] - p_v
    d entropy / d z_v = -p_v (log p_v + entropy)
    d z_v / d x_v = (1 - tanh(x_v / softcap)^2) / temperature
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .arguments import compute_dtype

# One chunk of float32 logits takes 64 MiB; about five of that size are alive at the peak of a backward.
CHUNK_ELEMENTS = 1 << 24


class _Scaling(NamedTuple):
    temperature: float
    softcap: float | None


def linear_logprob(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    target_T: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    return_entropy: bool = False,
    mask: Tensor | None = None,
    residual: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """See `aslfast_kernels.linear_logprob`."""
    frozen_head = not (weight_VD.requires_grad or (bias is not None and bias.requires_grad))
    needs_residual = torch.is_grad_enabled() and hidden_TD.requires_grad and residual != "recompute"
    save = needs_residual and frozen_head and not return_entropy
    scaling = _Scaling(temperature, softcap)
    live_L = None if mask is None else mask.nonzero().squeeze(1)
    return _LinearLogprob.apply(hidden_TD, weight_VD, bias, target_T.long(), live_L, scaling, return_entropy, save)


def logprob(
    logits_TV: Tensor,
    target_T: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    return_entropy: bool = False,
    mask: Tensor | None = None,
    inplace_backward: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """See `aslfast_kernels.logprob`."""
    scaling = _Scaling(temperature, softcap)
    live_L = None if mask is None else mask.nonzero().squeeze(1)
    return _Logprob.apply(logits_TV, target_T.long(), live_L, scaling, return_entropy, inplace_backward)


class _LinearLogprob(Function):
    """From hidden states and the head. `save`: keep d logp / d hidden of the live tokens from the forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_T: Tensor,
        live_L: Tensor | None,
        scaling: _Scaling,
        return_entropy: bool,
        save: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:
        tokens, vocabulary = hidden_TD.shape[0], weight_VD.shape[0]
        head = _Head(weight_VD, bias_V, compute_dtype(hidden_TD))
        logp_T = hidden_TD.new_zeros(tokens, dtype=head.dtype)
        entropy_T = torch.zeros_like(logp_T)
        live = tokens if live_L is None else live_L.numel()
        residual_LD = hidden_TD.new_empty((live, hidden_TD.shape[1]), dtype=head.dtype) if save else None
        done = 0
        for rows in _row_chunks(live_L, tokens, vocabulary):
            raw = head.logits(hidden_TD[rows])
            logp_T[rows], entropy_T[rows] = _statistics(raw, target_T[rows], scaling, return_entropy)
            if residual_LD is not None:
                one = torch.ones_like(logp_T[rows])
                grad_raw = _logit_gradient(raw, target_T[rows], scaling, one, None)
                residual_LD[done : done + len(one)] = head.times_weight(grad_raw)
                done += len(one)
        # What is saved is all the backward needs: with the residual neither the head nor the hidden states.
        kept = (None, None, None) if save else (hidden_TD, weight_VD, bias_V)
        ctx.save_for_backward(*kept, None if save else target_T, live_L, residual_LD)
        ctx.options = (hidden_TD.shape, hidden_TD.dtype, scaling)
        return (logp_T, entropy_T) if return_entropy else logp_T

    @staticmethod
    @once_differentiable  # its type makes ctx positional-only, hence the next line's exemption
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        grad_logp_T, grad_entropy_T = grad_outputs[0], grad_outputs[1] if len(grad_outputs) > 1 else None
        hidden_TD, weight_VD, bias_V, target_T, live_L, residual_LD = ctx.saved_tensors
        shape, dtype, scaling = ctx.options
        nothing = (None,) * 5
        if residual_LD is not None:
            grad_TD = grad_logp_T.new_zeros(shape, dtype=dtype)
            rows = slice(None) if live_L is None else live_L
            grad_TD[rows] = (grad_logp_T[rows].unsqueeze(1) * residual_LD).to(dtype)
            return (grad_TD, None, None, *nothing)
        head = _Head(weight_VD, bias_V, compute_dtype(hidden_TD))
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_TD = torch.zeros_like(hidden_TD) if need_hidden else None
        grad_VD = torch.zeros_like(head.weight_VD) if need_weight else None
        grad_V = torch.zeros_like(head.weight_VD[:, 0]) if need_bias else None
        for rows in _row_chunks(live_L, shape[0], weight_VD.shape[0]):
            grad_entropy = None if grad_entropy_T is None else grad_entropy_T[rows]
            raw = head.logits(hidden_TD[rows])
            grad_raw = _logit_gradient(raw, target_T[rows], scaling, grad_logp_T[rows], grad_entropy)
            if grad_TD is not None:
                grad_TD[rows] = head.times_weight(grad_raw).to(dtype)
            if grad_VD is not None:
                head.add_weight_gradient(grad_VD, grad_raw, hidden_TD[rows])
            if grad_V is not None:
                grad_V += grad_raw.sum(0)
        grad_VD = None if grad_VD is None else grad_VD.to(weight_VD.dtype)
        return (grad_TD, grad_VD, None if grad_V is None else grad_V.to(bias_V.dtype), *nothing)


class _Head:
    """The output layer in the compute dtype. Autocast is off inside: it would round the logits to half precision."""

    def __init__(self, weight_VD: Tensor, bias_V: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.weight_VD = weight_VD.detach().to(dtype)
        self.bias_V = None if bias_V is None else bias_V.detach().to(dtype)
        self.device_type = weight_VD.device.type

    def logits(self, hidden_LD: Tensor) -> Tensor:
        with torch.autocast(self.device_type, enabled=False):
            return F.linear(hidden_LD.to(self.dtype), self.weight_VD, self.bias_V)

    def times_weight(self, grad_LV: Tensor) -> Tensor:
        with torch.autocast(self.device_type, enabled=False):
            return grad_LV @ self.weight_VD

    def add_weight_gradient(self, grad_VD: Tensor, grad_LV: Tensor, hidden_LD: Tensor) -> None:
        with torch.autocast(self.device_type, enabled=False):
            grad_VD.addmm_(grad_LV.T, hidden_LD.to(self.dtype))


class _Logprob(Function):
    """From logits."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_TV: Tensor,
        target_T: Tensor,
        live_L: Tensor | None,
        scaling: _Scaling,
        return_entropy: bool,
        inplace_backward: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:
        dtype = compute_dtype(logits_TV)
        logp_T = logits_TV.new_zeros(logits_TV.shape[0], dtype=dtype)
        entropy_T = torch.zeros_like(logp_T)
        for rows in _row_chunks(live_L, *logits_TV.shape):
            raw = logits_TV[rows].to(dtype)
            logp_T[rows], entropy_T[rows] = _statistics(raw, target_T[rows], scaling, return_entropy)
        ctx.save_for_backward(logits_TV, target_T, live_L)
        ctx.options = (scaling, inplace_backward)
        return (logp_T, entropy_T) if return_entropy else logp_T

    @staticmethod
    @once_differentiable  # its type makes ctx positional-only, hence the next line's exemption
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        grad_logp_T, grad_entropy_T = grad_outputs[0], grad_outputs[1] if len(grad_outputs) > 1 else None
        logits_TV, target_T, live_L = ctx.saved_tensors
        scaling, inplace = ctx.options
        # detach() keeps the version counter, so that a later backward over overwritten logits is refused by torch.
        grad_TV = logits_TV.detach() if inplace else torch.empty_like(logits_TV)
        for rows in _row_chunks(live_L, *logits_TV.shape):
            grad_entropy = None if grad_entropy_T is None else grad_entropy_T[rows]
            raw = logits_TV[rows].to(grad_logp_T.dtype)
            grad_raw = _logit_gradient(raw, target_T[rows], scaling, grad_logp_T[rows], grad_entropy)
            grad_TV[rows] = grad_raw.to(grad_TV.dtype)
        if live_L is not None:
            masked_T = torch.ones_like(target_T, dtype=torch.bool)
            masked_T[live_L] = False
            grad_TV[masked_T] = 0
        return (grad_TV, *(None,) * 5)


def _row_chunks(live_L: Tensor | None, tokens: int, vocabulary: int) -> list[Any]:
    """Row selections (slices, or pieces of the live index) of at most CHUNK_ELEMENTS logits each."""
    rows = max(1, CHUNK_ELEMENTS // max(1, vocabulary))
    if live_L is None:
        return [slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]
    return list(live_L.split(rows)) if live_L.numel() else []


def _log_softmax(raw_LV: Tensor, scaling: _Scaling) -> Tensor:
    temperature, softcap = scaling
    capped_LV = raw_LV if softcap is None else softcap * torch.tanh(raw_LV / softcap)
    return torch.log_softmax(capped_LV / temperature, dim=-1)


def _entropy(logq_LV: Tensor) -> Tensor:
    # The clamp makes 0 * log 0 a 0 where a logit is -inf.
    return -(logq_LV.exp() * logq_LV.clamp(min=torch.finfo(logq_LV.dtype).min)).sum(-1)


def _statistics(raw_LV: Tensor, target_L: Tensor, scaling: _Scaling, entropy: bool) -> tuple[Tensor, Tensor | float]:
    logq_LV = _log_softmax(raw_LV, scaling)
    logp_L = logq_LV.gather(1, target_L.unsqueeze(1)).squeeze(1)
    return logp_L, _entropy(logq_LV) if entropy else 0.0


def _logit_gradient(
    raw_LV: Tensor, target_L: Tensor, scaling: _Scaling, grad_logp_L: Tensor, grad_entropy_L: Tensor | None
) -> Tensor:
    """The gradient with respect to the raw logits: the three equations at the head of this file, chained."""
    temperature, softcap = scaling
    logq_LV = _log_softmax(raw_LV, scaling)
    p_LV = logq_LV.exp()
    grad_LV = p_LV * -grad_logp_L.unsqueeze(1)
    grad_LV.scatter_add_(1, target_L.unsqueeze(1), grad_logp_L.unsqueeze(1))
    if grad_entropy_L is not None:
        surprise_LV = logq_LV.clamp(min=torch.finfo(logq_LV.dtype).min) + _entropy(logq_LV).unsqueeze(1)
        grad_LV -= grad_entropy_L.unsqueeze(1) * p_LV * surprise_LV
    if softcap is not None:
        grad_LV *= 1 - torch.tanh(raw_LV / softcap) ** 2
    return grad_LV.div_(temperature)
