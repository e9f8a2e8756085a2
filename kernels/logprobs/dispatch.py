"""What the operators of the log-probs have in common: the choice of an implementation, and how it is run.

An operator carries its implementation's name; `reference` and `fused` hold the same functions. What looks at values
(masks, the range of targets) happens within operators, where a compiled graph does not break.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from ..arguments import check_indices
from . import reference
from .inputs import BackwardInputs


def implementation(impl: str) -> ModuleType:
    """Return the module that holds the functions of `impl`."""
    if impl == "torch":
        return reference
    from . import fused

    return fused


def check_targets(target_T: Tensor, mask_T: Tensor | None, total: int) -> None:
    """Raise ValueError for a target, where the mask keeps it, that is not in 0..total-1."""
    check_indices("target_T", target_T, 0, total, " (mask out tokens without a target)", mask_T)


def check_temperatures(temperature_T: Tensor | None, mask_T: Tensor | None) -> None:
    """Raise ValueError for a temperature, where the mask keeps its token, that is not a finite number above 0."""
    if temperature_T is None:
        return
    bad_T = ~((temperature_T > 0) & temperature_T.isfinite())
    bad_T = bad_T if mask_T is None else bad_T & mask_T
    if bad_T.any():
        at = int(bad_T.nonzero()[0])
        raise ValueError(f"temperature[{at}]: got {float(temperature_T[at])}, expected a finite number > 0")


@contextmanager
def exact_launches(tensor: Tensor) -> Iterator[None]:
    """Launch on `tensor`'s device, with autocast off: it would round logits and sums, not the factors alone."""
    with torch.cuda.device_of(tensor), torch.autocast(tensor.device.type, enabled=False):
        yield


def backward_inputs(
    lse_T: Tensor, entropy_T: Tensor, grad_logp_T: Tensor, grad_entropy_T: Tensor | None
) -> BackwardInputs:
    """Return them grouped, and the gradients contiguous."""
    grad_entropy_T = None if grad_entropy_T is None else grad_entropy_T.contiguous()
    return BackwardInputs(lse_T, entropy_T, grad_logp_T.contiguous(), grad_entropy_T)
