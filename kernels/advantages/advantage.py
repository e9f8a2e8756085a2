"""Group-normalised advantages for ragged groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference
from .arguments import check_choice, check_indices, check_not_negative, check_tensor, choose_impl, compute_dtype


def group_advantage(
    rewards_N: Tensor,
    group_ids_N: Tensor,
    *,
    baseline: str = "mean",
    scale: str = "group",
    eps: float = 1e-6,
    sequence_ids_T: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """A_i = (r_i - b_i) / (std_i + eps), per trajectory [N], or per token [T] with `sequence_ids_T`.

    With g the group of i, n its size, m its mean, R the mean of all N rewards:
    baseline "mean": b_i = m (GRPO, arXiv 2402.03300)
             "leave_one_out": b_i = (sum_g r - r_i) / (n - 1), so r_i - b_i = (r_i - m) n / (n - 1) (RLOO, 2402.14740)
             "none": b_i = 0
    scale    "group": std_i = sqrt(sum_g (r - m)^2 / n), the population's, from centred sums, whatever the baseline
             "batch": std_i = sqrt(sum_N (r - R)^2 / N), one number for all
             "none": A_i = r_i - b_i (Dr. GRPO, 2503.20783)
    Singletons and flat groups give exactly 0 under either baseline; under baseline "none" A is the (scaled) reward
    itself, and exactly 0 only where the std asked for is 0. GRPO's paper leaves the std's divisor open and TRL takes
    n - 1; ours is n.

    rewards_N [N] floating point; group_ids_N [N] integers: any values, any order, groups of any size.
    sequence_ids_T [T] integers: the trajectory 0..N-1 of each token, -1 for padding, which gets 0.
    Sums run in float64; the result is float32 (float64 for float64 rewards) and carries no gradient.
    impl "triton": one launch, and one read-back of a few bytes for the check of the values, which waits for it.
    Raises ValueError for a reward that is NaN or infinite (naming its index), shapes, ranges; TypeError for dtypes.
    """
    check_tensor("rewards_N", rewards_N, (None,), "float")
    impl = choose_impl(impl, rewards_N, float64=True)
    check_tensor("group_ids_N", group_ids_N, tuple(rewards_N.shape), "integer", rewards_N)
    check_choice("baseline", baseline, ("mean", "leave_one_out", "none"))
    check_choice("scale", scale, ("group", "batch", "none"))
    check_not_negative("eps", eps)
    if sequence_ids_T is not None:
        check_tensor("sequence_ids_T", sequence_ids_T, (None,), "integer", rewards_N)
    return torch.ops.aslfast_kernels.group_advantage(
        rewards_N.detach(), group_ids_N, baseline, scale, eps, sequence_ids_T, impl
    )


_LIBRARY = torch.library.Library("aslfast_kernels", "FRAGMENT")
_LIBRARY.define(
    "group_advantage(Tensor rewards_N, Tensor group_ids_N, str baseline, str scale, float eps,"
    " Tensor? sequence_ids_T, str impl) -> Tensor"
)


@torch.library.impl(_LIBRARY, "group_advantage", "CompositeExplicitAutograd")
def _group_advantage(
    rewards_N: Tensor,
    group_ids_N: Tensor,
    baseline: str,
    scale: str,
    eps: float,
    sequence_ids_T: Tensor | None,
    impl: str,
) -> Tensor:
    """The operator. Values are checked in here: a branch on a tensor's content would break a compiled graph."""
    options: Any = {"baseline": baseline, "scale": scale, "eps": eps, "sequence_ids_T": sequence_ids_T}
    if impl == "torch":
        _check_values(rewards_N, sequence_ids_T)
        return reference.group_advantage(rewards_N, group_ids_N, **options)
    from . import advantage_kernel

    out, first_bad = advantage_kernel.group_advantage(rewards_N, group_ids_N, **options)
    reward_at, token_at = first_bad.cpu().amin(0).tolist()
    if reward_at < rewards_N.shape[0] or (sequence_ids_T is not None and token_at < sequence_ids_T.shape[0]):
        _check_values(rewards_N, sequence_ids_T)
    return out


@torch.library.register_fake("aslfast_kernels::group_advantage", lib=_LIBRARY)
def _(rewards_N, group_ids_N, baseline, scale, eps, sequence_ids_T, impl):
    size_N = rewards_N if sequence_ids_T is None else sequence_ids_T
    return rewards_N.new_empty(size_N.shape, dtype=compute_dtype(rewards_N))


def _check_values(rewards_N: Tensor, sequence_ids_T: Tensor | None) -> None:
    bad_N = ~torch.isfinite(rewards_N)
    if bad_N.any():
        at = int(bad_N.nonzero()[0])
        raise ValueError(f"rewards_N[{at}]: got {float(rewards_N[at])}, expected a finite number")
    if sequence_ids_T is not None:
        check_indices("sequence_ids_T", sequence_ids_T, -1, rewards_N.shape[0])
