"""`linear_logprob` and `logprob`: the checks, and the choice of an implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_mask, check_choice, check_positive, check_tensor, choose_impl, compute_dtype
from .linear_operator import linear_op
from .logits_operator import logits_op

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MAX_TEMPERATURES = 64


# More than 6 parameters: the public functions take all options by name.
def linear_logprob(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    target_T: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    return_entropy: bool = False,
    mask: Tensor | None = None,
    tp_group: ProcessGroup | None = None,
    impl: str | None = None,
    residual: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Return log p(target) [T] in nats, without ever holding [T, V]; with `return_entropy` also the entropy [T].

        x = logit_scale * (hidden @ W^T + bias);  y = softcap * tanh(x / softcap);  z = y / temperature
        logp_t = z[target_t] - logsumexp(z);  entropy_t = -sum_v p_v log p_v,  p = softmax(z)

    Logits and results are float32 (float64 for float64 hidden states). Under autocast hidden states and head are
    rounded to autocast's dtype for the product, whose sums and logits stay float32; a float32 head is then copied once
    a pass (2 V D bytes while it runs). Otherwise factors of two dtypes are multiplied in the wider one.
    Loss tokens are processed in row chunks. impl "torch" holds `logprobs.reference.CHUNK_ELEMENTS` logits at a time and
    widens a head in half precision once per pass (4 V D bytes while it runs); "triton" never stores a logit, widens a
    head in pieces, and holds `logprobs.head.WORKSPACE_BYTES` of probabilities where a gradient is made.

    Gradients: hidden, weight, bias, through logp and through the entropy; once only (no double backward).
    residual: d logp / d hidden = (W[target] - sum_v p_v W_v) / temperature (times the softcap's derivative inside the
        sum) does not depend on the upstream gradient. "save" makes it in the forward, so that forward + backward is
        two matrix products, with the entropy as without; it keeps [T, D] in the dtype of the hidden states. "recompute"
        keeps nothing more than the inputs, and takes three. A gradient through the entropy has no use for the residual
        and takes two products in the backward, whatever was saved. So "auto" saves with a frozen head and no entropy;
        where the entropy is only logged, "save" is one product less.
    temperature: a number, or one for each token [T], of which at most MAX_TEMPERATURES differ: each is a call of its
        own over its tokens, with as many products in all (a head's gradient is added up once a call).
    mask [T] bool, integers or floats: where it is 0 (False), tokens are skipped before the product, give 0, and their
        target may be anything.
    tp_group: a torch.distributed process group whose ranks hold consecutive slices of the vocabulary, of any sizes:
        weight_VD and bias are this rank's slice; hidden, target (ids of the whole vocabulary), mask and the upstream
        gradients are the same on all ranks. Results and the hidden states' gradient are complete on every rank.
    impl: "triton" or "torch"; None is "triton" for CUDA tensors and "torch" for others.
    A frozen head that FSDP2 has split over its ranks (a DTensor) is gathered for the call.

    hidden_TD [T, D], weight_VD [V, D], bias [V]: floating point; target_T [T]: integer in 0..V-1.
    Raises ValueError (shape, range, device) or TypeError (dtype), naming the argument.
    """
    check_tensor("hidden_TD", hidden_TD, (None, None), "float")
    options: dict[str, Any] = {
        "bias": bias, "softcap": softcap, "logit_scale": logit_scale, "return_entropy": return_entropy,
        "tp_group": tp_group, "impl": impl, "residual": residual,
    }  # fmt: skip
    if isinstance(temperature, Tensor):
        return _by_temperature(temperature, as_mask("mask", mask, hidden_TD), (hidden_TD, weight_VD, target_T), options)
    impl = choose_impl(impl, hidden_TD)
    tokens, width = hidden_TD.shape
    weight_VD, bias = _gathered("weight_VD", weight_VD), None if bias is None else _gathered("bias", bias)
    check_tensor("weight_VD", weight_VD, (None, width), "float", hidden_TD)
    if bias is not None:
        check_tensor("bias", bias, (weight_VD.shape[0],), "float", hidden_TD)
    check_tensor("target_T", target_T, (tokens,), "integer", hidden_TD)
    mask = as_mask("mask", mask, hidden_TD)
    check_choice("residual", residual, ("auto", "save", "recompute"))
    trainable_head = weight_VD.requires_grad or (bias is not None and bias.requires_grad)
    if residual == "save" and trainable_head:
        raise ValueError('residual: got "save", which needs a frozen head; use "auto"')
    wanted = residual == "save" or (residual == "auto" and not (trainable_head or return_entropy))
    save = wanted and torch.is_grad_enabled() and hidden_TD.requires_grad
    temperature, softcap = _unscaled(temperature, softcap, logit_scale)
    logp_T, entropy_T, _, _ = linear_op(
        hidden_TD, weight_VD, bias, target_T, mask, temperature, softcap, return_entropy, save,
        _autocast_dtype(hidden_TD, weight_VD), _group_name(tp_group), impl,
    )  # fmt: skip
    return (logp_T, entropy_T) if return_entropy else logp_T


# More than 6 parameters: as above.
def logprob(
    logits_TV: Tensor,
    target_T: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    return_entropy: bool = False,
    mask: Tensor | None = None,
    inplace_backward: bool = False,
    tp_group: ProcessGroup | None = None,
    impl: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return what `linear_logprob` does, from logits [T, V]; logits of -inf are tokens of probability 0.

    inplace_backward: the backward writes the gradient over `logits_TV` and so allocates no second [T, V]; the caller
        promises not to read the logits afterwards (torch raises where another backward would need them).
    temperature: a number, or one for each token [T], any number of different ones, without a gradient.
    tp_group: a process group whose ranks hold consecutive slices of the vocabulary, of any sizes: logits_TV is this
        rank's slice, all else the same on all ranks, as in `linear_logprob`. Two small all-reduces forward, none
        backward (and once each way the slices' sizes): each rank makes the gradient of its own logits. A rank's slice
        may be nothing but -inf.
    The gradient has the logits' dtype. Masks, dtypes and errors as in `linear_logprob`.
    """
    check_tensor("logits_TV", logits_TV, (None, None), "float")
    impl = choose_impl(impl, logits_TV)
    check_tensor("target_T", target_T, (logits_TV.shape[0],), "integer", logits_TV)
    mask = as_mask("mask", mask, logits_TV)
    temperature_T = None
    if isinstance(temperature, Tensor):
        check_tensor("temperature", temperature, (logits_TV.shape[0],), "float", logits_TV)
        temperature, temperature_T = 1.0, temperature.detach().to(compute_dtype(logits_TV))
    temperature, softcap = _unscaled(temperature, softcap, logit_scale)
    logp_T, entropy_T, _ = logits_op(
        logits_TV, target_T, mask, temperature_T, temperature, softcap, return_entropy, inplace_backward,
        _group_name(tp_group), impl,
    )  # fmt: skip
    return (logp_T, entropy_T) if return_entropy else logp_T


def _by_temperature(
    temperature_T: Tensor, mask: Tensor | None, inputs: tuple[Tensor, Tensor, Tensor], options: dict[str, Any]
) -> Tensor | tuple[Tensor, Tensor]:
    """Return `linear_logprob` of hidden, head and target, where tokens have temperatures of their own."""
    hidden_TD, weight_VD, target_T = inputs
    check_tensor("temperature", temperature_T, (hidden_TD.shape[0],), "float", hidden_TD)
    kept_T = torch.ones_like(temperature_T, dtype=torch.bool) if mask is None else mask
    found = temperature_T[kept_T].unique().tolist()
    if len(found) > MAX_TEMPERATURES:
        raise ValueError(f"temperature: got {len(found)} different ones, expected at most {MAX_TEMPERATURES}")
    whole = torch.zeros(hidden_TD.shape[0], dtype=compute_dtype(hidden_TD), device=hidden_TD.device)
    results = [whole, whole]
    for value in found or [1.0]:  # without a loss token, one call over none: the zeros then have a gradient
        rows = (kept_T & (temperature_T == value)).nonzero().squeeze(1)
        parts = linear_logprob(hidden_TD[rows], weight_VD, target_T[rows], temperature=value, **options)
        parts = parts if isinstance(parts, tuple) else (parts, parts.detach())
        results = [result.index_copy(0, rows, part) for result, part in zip(results, parts, strict=True)]
    return (results[0], results[1]) if options["return_entropy"] else results[0]


def _autocast_dtype(*factors: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast multiplies these in; None where it is off, or leaves them alone (float64)."""
    device = factors[0].device.type
    if not torch.is_autocast_enabled(device) or torch.float64 in [x.dtype for x in factors]:
        return None
    return torch.get_autocast_dtype(device)


def _group_name(tp_group: ProcessGroup | None) -> str | None:
    if tp_group is None:
        return None
    if not hasattr(tp_group, "group_name"):
        raise TypeError(f"tp_group: got {type(tp_group).__name__}, expected a torch.distributed.ProcessGroup or None")
    return tp_group.group_name


def _gathered(name: str, tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that FSDP2 has split over ranks (a DTensor), any other as it is."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: got a trainable DTensor, expected the gathered tensor; only the caller knows how the ranks'"
            " gradients are to be added up: full_tensor(grad_placements=...)"
        )
    return tensor.full_tensor()  # pyright: ignore


def _unscaled(temperature: float, softcap: float | None, logit_scale: float) -> tuple[float, float | None]:
    """Return the temperature and the softcap that do what these three do: with c = softcap / scale,
    softcap tanh(scale x / softcap) / temperature = c tanh(x / c) / (temperature / scale)."""
    check_positive("temperature", temperature)
    check_positive("logit_scale", logit_scale)
    if softcap is not None:
        check_positive("softcap", softcap)
        softcap = softcap / logit_scale
    return temperature / logit_scale, softcap
