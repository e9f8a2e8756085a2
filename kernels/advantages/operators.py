"""`group_advantage` as an operator of torch.library, which torch.compile keeps whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_indices, compute_dtype
from ..library import LIBRARY, NAMESPACE, READS_BACK
from . import reference

LIBRARY.define(
    "group_advantage(Tensor rewards_N, Tensor group_ids_N, str baseline, str scale, float eps,"
    " bool sample_std, bool keep_singletons, Tensor? sequence_ids_T, str impl) -> Tensor",
    tags=READS_BACK,
)


# More than 6 parameters: torch.library takes only tensors and plain values.
@torch.library.impl(LIBRARY, "group_advantage", "CompositeExplicitAutograd")
def _group_advantage(
    rewards_N: Tensor,
    group_ids_N: Tensor,
    baseline: str,
    scale: str,
    eps: float,
    sample_std: bool,
    keep_singletons: bool,
    sequence_ids_T: Tensor | None,
    impl: str,
) -> Tensor:
    """Run the implementation. Values are checked in here: a branch on a tensor's content would break a graph."""
    options: dict[str, Any] = {"baseline": baseline, "scale": scale, "eps": eps, "sequence_ids_T": sequence_ids_T}
    options |= {"sample_std": sample_std, "keep_singletons": keep_singletons}
    if impl == "torch":
        _check_values(rewards_N, sequence_ids_T)
        return reference.group_advantage(rewards_N, group_ids_N, **options)
    from . import fused

    with torch.cuda.device_of(rewards_N):
        out, first_bad = fused.group_advantage(rewards_N, group_ids_N, **options)
    reward_at, token_at = first_bad.cpu().amin(0).tolist()
    if reward_at < rewards_N.shape[0] or (sequence_ids_T is not None and token_at < sequence_ids_T.shape[0]):
        _check_values(rewards_N, sequence_ids_T)
    return out


# More than 6 parameters: those of the operator.
@torch.library.register_fake(f"{NAMESPACE}::group_advantage", lib=LIBRARY)
def _(rewards_N, group_ids_N, baseline, scale, eps, sample_std, keep_singletons, sequence_ids_T, impl):
    size_N = rewards_N if sequence_ids_T is None else sequence_ids_T
    return rewards_N.new_empty(size_N.shape, dtype=compute_dtype(rewards_N))


advantage_op = torch.ops.aslfast_kernels.group_advantage.default


def _check_values(rewards_N: Tensor, sequence_ids_T: Tensor | None) -> None:
    bad_N = ~torch.isfinite(rewards_N)
    if bad_N.any():
        at = int(bad_N.nonzero()[0])
        raise ValueError(f"rewards_N[{at}]: got {float(rewards_N[at])}, expected a finite number")
    if sequence_ids_T is not None:
        check_indices("sequence_ids_T", sequence_ids_T, -1, rewards_N.shape[0])
