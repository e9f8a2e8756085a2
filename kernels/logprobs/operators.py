"""torch.library operators of `linear_logprob` and `logprob`: torch.compile sees each as one node and never inside.

An operator carries its implementation's name; `reference_logprob` and `logprob_triton` hold the same functions. What
looks at values (masks, the range of targets) happens in here, where a compiled graph does not break.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from . import reference_logprob
from .arguments import check_indices, compute_dtype
from .vocabulary import Scaling, shard_of


def _functions(impl: str) -> ModuleType:
    if impl == "torch":
        return reference_logprob
    from . import logprob_triton

    return logprob_triton


def _check_targets(target_T: Tensor, mask_T: Tensor | None, total: int) -> None:
    check_indices("target_T", target_T, 0, total, " (mask out tokens without a target)", mask_T)


@contextmanager
def _plain(tensor: Tensor) -> Iterator[None]:
    """Launches go to `tensor`'s device, and autocast is off: it would round the logits to half precision."""
    with torch.cuda.device_of(tensor), torch.autocast(tensor.device.type, enabled=False):
        yield


@custom_op("aslfast::linear_logprob", mutates_args=())
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
    group: str | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shard = shard_of(weight_VD, group)
    _check_targets(target_T, mask_T, shard.total)
    scaling = Scaling(temperature, softcap)
    with _plain(hidden_TD):
        return _functions(impl).linear_forward(
            hidden_TD, weight_VD, bias_V, target_T.long(), mask_T, scaling, entropy, save, shard
        )


@linear_op.register_fake
def _(hidden_TD, weight_VD, bias_V, target_T, mask_T, temperature, softcap, entropy, save, group, impl):
    logp_T = hidden_TD.new_empty(hidden_TD.shape[0], dtype=compute_dtype(hidden_TD))
    entropy_T = torch.empty_like(logp_T) if entropy else logp_T.new_empty(0)
    return logp_T, entropy_T, torch.empty_like(logp_T), hidden_TD.new_empty(hidden_TD.shape if save else 0)


@custom_op("aslfast::linear_logprob_backward", mutates_args=())
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
    group: str | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    shard = shard_of(weight_VD, group)
    grad_entropy_T = None if grad_entropy_T is None else grad_entropy_T.contiguous()
    with _plain(hidden_TD):
        return _functions(impl).linear_backward(
            hidden_TD, weight_VD, bias_V, target_T.long(), mask_T, lse_T, entropy_T, grad_logp_T.contiguous(),
            grad_entropy_T, Scaling(temperature, softcap), shard, (need_hidden, need_weight, need_bias),
        )  # fmt: skip


@linear_backward_op.register_fake
def _(
    hidden_TD, weight_VD, bias_V, target_T, mask_T, lse_T, entropy_T, grad_logp_T, grad_entropy_T, temperature,
    softcap, need_hidden, need_weight, need_bias, group, impl,
):  # fmt: skip
    nothing = hidden_TD.new_empty(0)
    grad_V = torch.empty_like(bias_V) if need_bias else nothing
    return (
        hidden_TD.new_empty(hidden_TD.shape if need_hidden else 0),
        weight_VD.new_empty(weight_VD.shape if need_weight else 0),
        grad_V,
    )


@custom_op("aslfast::scale_residual", mutates_args=())
def scale_residual_op(residual_TD: Tensor, grad_logp_T: Tensor) -> Tensor:
    """The gradient of the hidden states from the saved residual. An operator, so that a second backward is refused."""
    return (grad_logp_T.unsqueeze(1) * residual_TD).to(residual_TD.dtype)


@scale_residual_op.register_fake
def _(residual_TD, grad_logp_T):
    return torch.empty_like(residual_TD, memory_format=torch.contiguous_format)


def _linear_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    hidden_TD, weight_VD, bias_V, target_T, mask_T, temperature, softcap, _, save, group, impl = inputs
    _, entropy_T, lse_T, residual_TD = output
    ctx.mark_non_differentiable(lse_T, residual_TD)
    ctx.set_materialize_grads(False)
    ctx.options = (temperature, softcap, save, group, impl)
    if save:
        ctx.save_for_backward(residual_TD)
    else:
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, target_T, mask_T, lse_T, entropy_T)


def _linear_backward(ctx: Any, grad_logp_T: Tensor | None, grad_entropy_T: Tensor | None, *_: None) -> tuple:
    temperature, softcap, save, group, impl = ctx.options
    others = (None,) * 8
    if save:
        (residual_TD,) = ctx.saved_tensors
        grad_TD = None if grad_logp_T is None else scale_residual_op(residual_TD, grad_logp_T)
        return (grad_TD, None, None, *others)
    *inputs, lse_T, entropy_T = ctx.saved_tensors
    grad_logp_T = torch.zeros_like(lse_T) if grad_logp_T is None else grad_logp_T
    needed = ctx.needs_input_grad[:3]
    gradients = linear_backward_op(
        *inputs, lse_T, entropy_T, grad_logp_T, grad_entropy_T, temperature, softcap, *needed, group, impl
    )
    return (*(g if need else None for g, need in zip(gradients, needed, strict=True)), *others)


linear_op.register_autograd(_linear_backward, setup_context=_linear_setup)


@custom_op("aslfast::logprob", mutates_args=())
def logits_op(
    logits_TV: Tensor,
    target_T: Tensor,
    mask_T: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: bool,
    inplace_backward: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_targets(target_T, mask_T, logits_TV.shape[1])
    scaling = Scaling(temperature, softcap)
    with _plain(logits_TV):
        return _functions(impl).logits_forward(logits_TV, target_T.long(), mask_T, scaling, entropy)


@logits_op.register_fake
def _(logits_TV, target_T, mask_T, temperature, softcap, entropy, inplace_backward, impl):
    logp_T = logits_TV.new_empty(logits_TV.shape[0], dtype=compute_dtype(logits_TV))
    return logp_T, torch.empty_like(logp_T) if entropy else logp_T.new_empty(0), torch.empty_like(logp_T)


@custom_op("aslfast::logprob_backward", mutates_args={"out_TV"})
def logits_backward_op(
    logits_TV: Tensor | None,
    target_T: Tensor,
    mask_T: Tensor | None,
    lse_T: Tensor,
    entropy_T: Tensor,
    grad_logp_T: Tensor,
    grad_entropy_T: Tensor | None,
    temperature: float,
    softcap: float | None,
    impl: str,
    out_TV: Tensor,
) -> None:
    """logits_TV None: they stand in `out_TV`, and the gradient is written over them."""
    source_TV = out_TV if logits_TV is None else logits_TV
    grad_entropy_T = None if grad_entropy_T is None else grad_entropy_T.contiguous()
    with _plain(source_TV):
        _functions(impl).logits_backward(
            source_TV, target_T.long(), mask_T, lse_T, entropy_T, grad_logp_T.contiguous(), grad_entropy_T,
            Scaling(temperature, softcap), out_TV,
        )  # fmt: skip


def _logits_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    logits_TV, target_T, mask_T, temperature, softcap, _, inplace_backward, impl = inputs
    _, entropy_T, lse_T = output
    ctx.mark_non_differentiable(lse_T)
    ctx.set_materialize_grads(False)
    ctx.options = (temperature, softcap, inplace_backward, impl)
    ctx.save_for_backward(logits_TV, target_T, mask_T, lse_T, entropy_T)


def _logits_backward(ctx: Any, grad_logp_T: Tensor | None, grad_entropy_T: Tensor | None, _: None) -> tuple:
    logits_TV, target_T, mask_T, lse_T, entropy_T = ctx.saved_tensors
    temperature, softcap, inplace_backward, impl = ctx.options
    grad_logp_T = torch.zeros_like(lse_T) if grad_logp_T is None else grad_logp_T
    # detach() keeps the version counter, so that a later backward over overwritten logits is refused by torch.
    out_TV = logits_TV.detach() if inplace_backward else torch.empty_like(logits_TV)
    logits_backward_op(
        None if inplace_backward else logits_TV, target_T, mask_T, lse_T, entropy_T, grad_logp_T, grad_entropy_T,
        temperature, softcap, impl, out_TV,
    )  # fmt: skip
    return (out_TV, *(None,) * 7)


logits_op.register_autograd(_logits_backward, setup_context=_logits_setup)
