"""`policy_loss` as one operator of torch.library: torch.compile keeps it whole, and its backward is one product.

Library.define rather than custom_op, which would check aliasing in Python on every call.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..arguments import compute_dtype
from ..library import LIBRARY, NAMESPACE
from . import reference

LIBRARY.define(
    "policy_loss(Tensor logp_T, Tensor old_logp_T, Tensor advantage, Tensor? sequence_ids_T, Tensor? mask_T,"
    " float clip_low, float clip_high, float? dual_clip, Tensor? ref_logp_T, float kl_coef, str kl_kind,"
    " str ratio_level, str kind, Tensor? sampler_logp_T, float? tis_cap, str aggregate, float? normalizer,"
    " Tensor? normalizer_tensor, str advantage_level, str impl)"
    " -> (Tensor loss, Tensor gradient_T, Tensor normalizer, Tensor metrics_M, Tensor tokens)"
)
LIBRARY.define(
    "policy_loss_backward(Tensor gradient_T, Tensor normalizer, Tensor upstream, ScalarType dtype, str impl) -> Tensor"
)


def _implementation(impl: str) -> ModuleType:
    if impl == "torch":
        return reference
    from . import fused

    return fused


# More than 6 parameters: torch.library takes only tensors and plain values.
@torch.library.impl(LIBRARY, "policy_loss", "CompositeExplicitAutograd")
def _policy_loss(
    logp_T: Tensor,
    old_logp_T: Tensor,
    advantage: Tensor,
    sequence_ids_T: Tensor | None,
    mask_T: Tensor | None,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    ref_logp_T: Tensor | None,
    kl_coef: float,
    kl_kind: str,
    ratio_level: str,
    kind: str,
    sampler_logp_T: Tensor | None,
    tis_cap: float | None,
    aggregate: str,
    normalizer: float | None,
    normalizer_tensor: Tensor | None,
    advantage_level: str,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the implementation on the tensors' device; a float or a tensor is the normalizer, since a schema has no type
    for either."""
    with torch.cuda.device_of(logp_T):
        result = _implementation(impl).policy_loss(
            logp_T, old_logp_T, advantage, sequence_ids_T=sequence_ids_T, mask_T=mask_T, clip_low=clip_low,
            clip_high=clip_high, dual_clip=dual_clip, ref_logp_T=ref_logp_T, kl_coef=kl_coef, kl_kind=kl_kind,
            ratio_level=ratio_level, kind=kind, sampler_logp_T=sampler_logp_T, tis_cap=tis_cap, aggregate=aggregate,
            normalizer=normalizer if normalizer_tensor is None else normalizer_tensor, advantage_level=advantage_level,
        )  # fmt: skip
    return tuple(result)


@torch.library.impl(LIBRARY, "policy_loss_backward", "CompositeExplicitAutograd")
def _backward(gradient_T: Tensor, normalizer: Tensor, upstream: Tensor, dtype: torch.dtype, impl: str) -> Tensor:
    with torch.cuda.device_of(gradient_T):
        return _implementation(impl).policy_loss_backward(gradient_T, normalizer, upstream, dtype)


@torch.library.register_fake(f"{NAMESPACE}::policy_loss", lib=LIBRARY)
def _(logp_T, *_args):
    dtype = compute_dtype(logp_T)
    loss, normalizer = (logp_T.new_empty((), dtype=dtype) for _ in range(2))
    gradient_T, metrics_M = logp_T.new_empty(logp_T.shape, dtype=dtype), logp_T.new_empty(5, dtype=dtype)
    return loss, gradient_T, normalizer, metrics_M, logp_T.new_empty((), dtype=torch.int64)


@torch.library.register_fake(f"{NAMESPACE}::policy_loss_backward", lib=LIBRARY)
def _(gradient_T, normalizer, upstream, dtype, impl):
    return torch.empty_like(gradient_T, dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, gradient_T, normalizer, metrics_M, tokens = output
    ctx.mark_non_differentiable(gradient_T, normalizer, metrics_M, tokens)
    ctx.set_materialize_grads(False)  # or torch would fill a gradient of zeros for gradient_T
    ctx.save_for_backward(gradient_T, normalizer)
    ctx.dtype, ctx.impl = inputs[0].dtype, inputs[-1]


def _chain(ctx: Any, upstream: Tensor | None, *_others: None) -> tuple[Tensor | None, ...]:
    gradient_T, normalizer = ctx.saved_tensors
    if upstream is None:
        return (None,) * 20
    grad_T = torch.ops.aslfast_kernels.policy_loss_backward(gradient_T, normalizer, upstream, ctx.dtype, ctx.impl)
    return (grad_T, *(None,) * 19)


torch.library.register_autograd(f"{NAMESPACE}::policy_loss", _chain, setup_context=_setup_context, lib=LIBRARY)
policy_loss_op = torch.ops.aslfast_kernels.policy_loss.default
