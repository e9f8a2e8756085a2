"""`linear_logprob` and `logprob` by Triton kernels; the functions and signatures of `reference`.

Forward alone is one product of the hidden states of loss tokens with the head, whose logits are used up tile by tile
in registers. What its gradient costs:

- Frozen head. hidden's gradient needs sum_v p_v W_v, and p needs lse, which is known when the product is done. Keeping
  that sum online, as attention does, needs a [tile, D] accumulator: 128 x 3584 floats are 1.8 MB, and a multiprocessor
  has 256 KiB of registers. So the first product leaves e = exp(z - max of the slice) of one row chunk in a workspace in
  the head's dtype, a pass over it makes [v = target] - p of it (no logit was ever stored, so none was rounded), and the
  second product is plain: torch.mm, which on Hopper is cuBLAS at full rate. Two products in all.
  Traffic per logit: 2 bytes written, 2 + 2 by the pass, 2 read. At N=8192, V=152064 in bfloat16 that is 10 GB, of which
  the pass's 5 GB (1.5 ms at 3.35 TB/s) come on top of two products of 11.2 ms (D=3584, 800 TFLOP/s); the rest runs
  under them. The head is read once per chunk and product (1.1 GB, 0.33 ms, under 2.4 ms of arithmetic).
- Otherwise the backward makes the logits again, the gradient's coefficients straight from the known lse, and one more
  product for hidden and one for the head.

Memory: `head.WORKSPACE_BYTES` where a gradient is made, `head.STATISTICS_BYTES` more, and the results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..cards import card_of
from . import logits_kernels as kernels
from .head import Head, dense_rows
from .head_kernels import COEFFICIENT_SCALE
from .inputs import BackwardInputs, LinearInputs, LogitsInputs
from .vocabulary import Scaling, Statistics


def linear_forward(inputs: LinearInputs, entropy: bool, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (logp [T], entropy [T] or [0], lse [T], residual [T, D] or [0]); 0 for masked tokens."""
    hidden_TD, shard = inputs.hidden_TD, inputs.shard
    head = Head(inputs)
    logp_T = hidden_TD.new_zeros(hidden_TD.shape[0], dtype=torch.float32)
    lse_T = torch.zeros_like(logp_T)
    entropy_T = torch.zeros_like(logp_T) if entropy else logp_T.new_empty(0)
    residual_TD = hidden_TD.new_zeros(hidden_TD.shape if save else 0)
    out_LV = head.workspace() if save else None
    for chunk in head.chunks(out_LV):
        parts, statistics = head.statistics(chunk, out_LV, entropy)
        statistics = statistics.over(shard)
        rows = head.rows(chunk)
        logp_T[rows], lse_T[rows] = statistics.logp(), statistics.lse()
        if entropy:
            entropy_T[rows] = statistics.entropy()
        if out_LV is not None:
            head.coefficients(chunk, out_LV, parts, statistics)
            product = head.times_weight(out_LV, chunk) / (COEFFICIENT_SCALE * inputs.scaling.temperature)
            residual_TD[rows] = shard.all_sum(product).to(residual_TD.dtype)
    return logp_T, entropy_T, lse_T, residual_TD


def linear_backward(
    inputs: LinearInputs, given: BackwardInputs, needed: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of hidden, weight and bias, each [0] where not `needed`."""
    hidden_TD, weight_VD, bias_V = inputs.hidden_TD, inputs.weight_VD, inputs.bias_V
    head, with_entropy = Head(inputs), given.grad_entropy_T is not None
    grad_TD = hidden_TD.new_zeros(hidden_TD.shape if needed[0] else 0)
    grad_VD, grad_V = (
        torch.zeros(shape if need else 0, dtype=torch.float32, device=hidden_TD.device)
        for shape, need in zip((weight_VD.shape, weight_VD.shape[0]), needed[1:], strict=True)
    )
    known_4T, unit = _known_and_unit(given)
    unit = unit / (COEFFICIENT_SCALE * inputs.scaling.temperature)
    out_LV = head.workspace()
    for chunk in head.chunks(out_LV):
        rows = head.rows(chunk)
        head.gradient(chunk, out_LV, known_4T[:, rows].contiguous(), with_entropy)
        if needed[0]:
            grad_TD[rows] = (inputs.shard.all_sum(head.times_weight(out_LV, chunk)) * unit).to(grad_TD.dtype)
        if needed[1]:
            head.add_weight_gradient(grad_VD, out_LV, chunk)
        if needed[2]:
            grad_V += head.used(out_LV, chunk).sum(0, dtype=torch.float32)
    grad_V = (grad_V * unit).to(grad_V.dtype if bias_V is None else bias_V.dtype)
    return grad_TD, grad_VD.mul_(unit).to(weight_VD.dtype), grad_V


def _known_and_unit(given: BackwardInputs) -> tuple[Tensor, Tensor]:
    """Return [4, T] lse, entropy and the two upstream gradients as `head_kernel` takes them, and their unit.

    The upstream gradients are brought to at most 1, which the workspace's dtype can hold; the unit undoes it.
    """
    zero_T = torch.zeros_like(given.grad_logp_T)
    with_entropy = given.grad_entropy_T is not None
    upstream = torch.stack([given.grad_logp_T, zero_T if given.grad_entropy_T is None else given.grad_entropy_T])
    unit = upstream.abs().amax() if upstream.numel() else upstream.new_ones(())
    unit = unit.clamp(min=torch.finfo(torch.float32).tiny)
    known_4T = torch.cat([torch.stack([given.lse_T, given.entropy_T if with_entropy else zero_T]), upstream / unit])
    known_4T[2:] *= COEFFICIENT_SCALE
    return known_4T, unit


def logits_forward(inputs: LogitsInputs, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (logp [T], entropy [T] or [0], lse [T]); 0 for masked tokens."""
    logits_TV, scaling = dense_rows(inputs.logits_TV), inputs.scaling
    tokens, vocabulary = logits_TV.shape
    # A skipped row's values: top 0, mass 1 and logit 0 give logp 0, entropy 0 and lse 0.
    rows_4T = torch.tensor([[0.0], [1.0], [0.0], [0.0]], device=logits_TV.device).repeat(1, tokens)
    if tokens:
        kernels.statistics_kernel[(tokens,)](
            logits_TV, _marked_targets(inputs), _contiguous(inputs.temperature_T), rows_4T, tokens, vocabulary,
            logits_TV.stride(0), 1.0 / scaling.temperature, scaling.softcap or 1.0, **_constexprs(scaling, entropy),
            **card_of(logits_TV.device).options(kernels.WARPS),
        )  # fmt: skip
    statistics = Statistics(rows_4T[0], rows_4T[1], rows_4T[3] if entropy else None, rows_4T[2]).over(inputs.shard)
    if inputs.mask_T is not None:  # ranks have added up a skipped row's masses
        statistics = statistics._replace(mass=torch.where(inputs.mask_T, statistics.mass, 1.0))
    return statistics.logp(), statistics.entropy(), statistics.lse()


def logits_backward(inputs: LogitsInputs, given: BackwardInputs, out_TV: Tensor) -> None:
    """Write the gradient of the logits to `out_TV`, which may be the logits themselves."""
    (tokens, vocabulary), scaling = inputs.logits_TV.shape, inputs.scaling
    source_TV = dense_rows(inputs.logits_TV)
    dense_TV = out_TV if out_TV.stride(1) == 1 else torch.empty_like(source_TV)
    if given.grad_entropy_T is not None:
        known_4T = torch.stack([given.lse_T, given.entropy_T, given.grad_logp_T, given.grad_entropy_T])
    else:
        known_4T = torch.stack([given.lse_T, given.lse_T, given.grad_logp_T, given.grad_logp_T])
    blocks = -(-vocabulary // kernels.BLOCK)
    if inputs.logits_TV.numel():
        kernels.gradient_kernel[(tokens * blocks,)](
            source_TV, _marked_targets(inputs), _contiguous(inputs.temperature_T), known_4T, dense_TV, tokens,
            vocabulary, source_TV.stride(0), dense_TV.stride(0), 1.0 / scaling.temperature, scaling.softcap or 1.0,
            **_constexprs(scaling, given.grad_entropy_T is not None),
            **card_of(source_TV.device).options(kernels.WARPS),
        )  # fmt: skip
    if dense_TV is not out_TV:
        out_TV.copy_(dense_TV)


def _constexprs(scaling: Scaling, entropy: bool) -> dict[str, Any]:
    flags = {"SOFTCAP": scaling.softcap is not None, "ENTROPY": entropy}
    return flags | {"BLOCK": kernels.BLOCK}


def _marked_targets(inputs: LogitsInputs) -> Tensor:
    """Return the targets in this rank's slice of V, V for those of other ranks, -1 for the rows to skip."""
    vocabulary, local_T = inputs.logits_TV.shape[1], inputs.target_T - inputs.shard.start
    local_T = torch.where((local_T >= 0) & (local_T < vocabulary), local_T, vocabulary)
    return local_T.contiguous() if inputs.mask_T is None else torch.where(inputs.mask_T, local_T, -1)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
