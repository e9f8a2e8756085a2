"""`logprob` as an operator of torch.library: torch.compile sees one node each way and never inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from ..arguments import compute_dtype
from ..library import NAMESPACE, READS_BACK
from . import dispatch
from .inputs import LogitsInputs
from .vocabulary import Scaling, shard_of


# More than 6 parameters: torch.library takes only tensors and plain values.
@custom_op(f"{NAMESPACE}::logprob", mutates_args=(), tags=READS_BACK)
def logits_op(
    logits_TV: Tensor,
    target_T: Tensor,
    mask_T: Tensor | None,
    temperature_T: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: bool,
    inplace_backward: bool,
    group: str | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (logp [T], entropy [T] or [0], lse [T])."""
    shard = shard_of(logits_TV.shape[1], logits_TV.device, group)
    dispatch.check_targets(target_T, mask_T, shard.total)
    dispatch.check_temperatures(temperature_T, mask_T)
    scaling = Scaling(temperature, softcap)
    inputs = LogitsInputs(logits_TV, target_T.long(), mask_T, scaling, temperature_T, shard)
    with dispatch.exact_launches(logits_TV):
        return dispatch.implementation(impl).logits_forward(inputs, entropy)


# More than 6 parameters: the operator's.
@logits_op.register_fake
def _(logits_TV, target_T, mask_T, temperature_T, temperature, softcap, entropy, inplace_backward, group, impl):
    logp_T = logits_TV.new_empty(logits_TV.shape[0], dtype=compute_dtype(logits_TV))
    return logp_T, torch.empty_like(logp_T) if entropy else logp_T.new_empty(0), torch.empty_like(logp_T)


# More than 6 parameters: torch.library takes only tensors and plain values.
@custom_op(f"{NAMESPACE}::logprob_backward", mutates_args={"out_TV"})
def logits_backward_op(
    logits_TV: Tensor | None,
    target_T: Tensor,
    mask_T: Tensor | None,
    temperature_T: Tensor | None,
    lse_T: Tensor,
    entropy_T: Tensor,
    grad_logp_T: Tensor,
    grad_entropy_T: Tensor | None,
    temperature: float,
    softcap: float | None,
    group: str | None,
    impl: str,
    out_TV: Tensor,
) -> None:
    """Write the gradient to `out_TV`. logits_TV None: the logits are in `out_TV` and are overwritten.

    A rank's slice of the gradient needs its own logits and what all know: no sum over ranks.
    """
    source_TV = out_TV if logits_TV is None else logits_TV
    shard = shard_of(source_TV.shape[1], source_TV.device, group)
    given = dispatch.backward_inputs(lse_T, entropy_T, grad_logp_T, grad_entropy_T)
    with dispatch.exact_launches(source_TV):
        scaling = Scaling(temperature, softcap)
        inputs = LogitsInputs(source_TV, target_T.long(), mask_T, scaling, temperature_T, shard)
        dispatch.implementation(impl).logits_backward(inputs, given, out_TV)


def _logits_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    logits_TV, target_T, mask_T, temperature_T, temperature, softcap, _, inplace_backward, group, impl = inputs
    _, entropy_T, lse_T = output
    ctx.mark_non_differentiable(lse_T)
    ctx.set_materialize_grads(False)
    ctx.options = (inplace_backward, temperature, softcap, group, impl)
    ctx.save_for_backward(logits_TV, target_T, mask_T, temperature_T, lse_T, entropy_T)


def _logits_backward(ctx: Any, grad_logp_T: Tensor | None, grad_entropy_T: Tensor | None, _: None) -> tuple:
    logits_TV, target_T, mask_T, temperature_T, lse_T, entropy_T = ctx.saved_tensors
    inplace_backward, *options = ctx.options
    grad_logp_T = torch.zeros_like(lse_T) if grad_logp_T is None else grad_logp_T
    # detach() keeps the version counter, so that a later backward over overwritten logits is refused by torch.
    out_TV = logits_TV.detach() if inplace_backward else torch.empty_like(logits_TV)
    logits_backward_op(
        None if inplace_backward else logits_TV, target_T, mask_T, temperature_T, lse_T, entropy_T, grad_logp_T,
        grad_entropy_T, *options, out_TV,
    )  # fmt: skip
    return (out_TV, *(None,) * 9)


logits_op.register_autograd(_logits_backward, setup_context=_logits_setup)
