"""`linear_logprob` as an operator of torch.library: torch.compile sees one node each way and never inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from ..arguments import compute_dtype
from ..library import NAMESPACE, READS_BACK
from . import dispatch
from .inputs import LinearInputs
from .vocabulary import Scaling, shard_of


# More than 6 parameters: torch.library takes only tensors and plain values.
@custom_op(f"{NAMESPACE}::linear_logprob", mutates_args=(), tags=READS_BACK)
def linear_op(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_T: Tensor,
    mask_T: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: bool,
    save: bool,
    autocast: torch.dtype | None,
    group: str | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (logp [T], entropy [T] or [0], lse [T], the saved residual [T, D] or [0])."""
    shard = shard_of(weight_VD.shape[0], weight_VD.device, group)
    dispatch.check_targets(target_T, mask_T, shard.total)
    scaling = Scaling(temperature, softcap)
    with dispatch.exact_launches(hidden_TD):
        inputs = LinearInputs(hidden_TD, weight_VD, bias_V, target_T.long(), mask_T, scaling, shard, autocast)
        return dispatch.implementation(impl).linear_forward(inputs, entropy, save)


# More than 6 parameters: the operator's.
@linear_op.register_fake
def _(hidden_TD, weight_VD, bias_V, target_T, mask_T, temperature, softcap, entropy, save, autocast, group, impl):
    logp_T = hidden_TD.new_empty(hidden_TD.shape[0], dtype=compute_dtype(hidden_TD))
    entropy_T = torch.empty_like(logp_T) if entropy else logp_T.new_empty(0)
    return logp_T, entropy_T, torch.empty_like(logp_T), hidden_TD.new_empty(hidden_TD.shape if save else 0)


# More than 6 parameters: torch.library takes only tensors and plain values.
@custom_op(f"{NAMESPACE}::linear_logprob_backward", mutates_args=(), tags=READS_BACK)
def linear_backward_op(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_T: Tensor,
    mask_T: Tensor | None,
    lse_T: Tensor,
    entropy_T: Tensor,
    grad_logp_T: Tensor,
    grad_entropy_T: Tensor | None,
    temperature: float,
    softcap: float | None,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
    autocast: torch.dtype | None,
    group: str | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of hidden, weight and bias, each [0] where it is not needed."""
    shard = shard_of(weight_VD.shape[0], weight_VD.device, group)
    given = dispatch.backward_inputs(lse_T, entropy_T, grad_logp_T, grad_entropy_T)
    with dispatch.exact_launches(hidden_TD):
        scaling = Scaling(temperature, softcap)
        inputs = LinearInputs(hidden_TD, weight_VD, bias_V, target_T.long(), mask_T, scaling, shard, autocast)
        return dispatch.implementation(impl).linear_backward(inputs, given, (need_hidden, need_weight, need_bias))


# More than 6 parameters: the operator's.
@linear_backward_op.register_fake
def _(
    hidden_TD, weight_VD, bias_V, target_T, mask_T, lse_T, entropy_T, grad_logp_T, grad_entropy_T, temperature,
    softcap, need_hidden, need_weight, need_bias, autocast, group, impl,
):  # fmt: skip
    nothing = hidden_TD.new_empty(0)
    grad_V = torch.empty_like(bias_V) if need_bias else nothing
    return (
        hidden_TD.new_empty(hidden_TD.shape if need_hidden else 0),
        weight_VD.new_empty(weight_VD.shape if need_weight else 0),
        grad_V,
    )


@custom_op(f"{NAMESPACE}::scale_residual", mutates_args=())
def scale_residual_op(residual_TD: Tensor, grad_logp_T: Tensor) -> Tensor:
    """Return hidden's gradient from the saved residual. An operator, so that a second backward is refused."""
    return (grad_logp_T.unsqueeze(1) * residual_TD).to(residual_TD.dtype)


@scale_residual_op.register_fake
def _(residual_TD, grad_logp_T):
    return torch.empty_like(residual_TD, memory_format=torch.contiguous_format)


def _linear_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    hidden_TD, weight_VD, bias_V, target_T, mask_T, temperature, softcap, entropy, save, *rest = inputs
    _, entropy_T, lse_T, residual_TD = output
    ctx.mark_non_differentiable(lse_T, residual_TD)
    ctx.set_materialize_grads(False)
    ctx.options = (temperature, softcap, save, rest)
    if save and not entropy:
        ctx.save_for_backward(residual_TD)
    else:  # the residual has no part in the entropy's gradient, should one be asked for
        ctx.save_for_backward(residual_TD, hidden_TD, weight_VD, bias_V, target_T, mask_T, lse_T, entropy_T)


def _linear_backward(ctx: Any, grad_logp_T: Tensor | None, grad_entropy_T: Tensor | None, *_: None) -> tuple:
    temperature, softcap, save, rest = ctx.options
    others = (None,) * 9
    residual_TD, *kept = ctx.saved_tensors
    if save and (grad_entropy_T is None or not kept):
        grad_TD = None if grad_logp_T is None else scale_residual_op(residual_TD, grad_logp_T)
        return (grad_TD, None, None, *others)
    *inputs, lse_T, entropy_T = kept
    grad_logp_T = torch.zeros_like(lse_T) if grad_logp_T is None else grad_logp_T
    needed = ctx.needs_input_grad[:3]
    gradients = linear_backward_op(
        *inputs, lse_T, entropy_T, grad_logp_T, grad_entropy_T, temperature, softcap, *needed, *rest
    )
    return (*(g if need else None for g, need in zip(gradients, needed, strict=True)), *others)


linear_op.register_autograd(_linear_backward, setup_context=_linear_setup)
