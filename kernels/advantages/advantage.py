"""`group_advantage`: the checks, and the choice of an implementation."""

from __future__ import annotations

from torch import Tensor

from ..arguments import check_choice, check_not_negative, check_tensor, choose_impl
from .operators import advantage_op


# More than 6 parameters: the public function takes all options by name.
def group_advantage(
    rewards_N: Tensor,
    group_ids_N: Tensor,
    *,
    baseline: str = "mean",
    scale: str = "group",
    eps: float = 1e-6,
    ddof: int = 0,
    singleton: str = "zero",
    sequence_ids_T: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Return A_i = (r_i - b_i) / (std_i + eps), per trajectory [N], or per token [T] with `sequence_ids_T`.

    With g the group of i, n its size, m its mean, R the mean of all N rewards:
    baseline "mean": b_i = m (GRPO, arXiv 2402.03300)
             "leave_one_out": b_i = (sum_g r - r_i) / (n - 1), so r_i - b_i = (r_i - m) n / (n - 1) (RLOO, 2402.14740)
             "none": b_i = 0
    scale    "group": std_i = sqrt(sum_g (r - m)^2 / n), the population's, from centred sums, whatever the baseline
             "batch": std_i = sqrt(sum_N (r - R)^2 / N), one number for all
             "none": A_i = r_i - b_i (Dr. GRPO, 2503.20783)
    ddof 1 divides the sums of either std by n - 1 and N - 1, as TRL and verl do (GRPO's paper leaves it open).
    Singletons and zero-variance groups give exactly 0 under either baseline; under baseline "none" A is the (scaled)
    reward itself, and exactly 0 only where the std asked for is 0. singleton "keep": the baseline of a group of one is
    0 and its own std 1, so that A_i = r_i / (1 + eps) with scale "group" (verl's compute_grpo_outcome_advantage).

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
    check_choice("ddof", ddof, (0, 1))
    check_choice("singleton", singleton, ("zero", "keep"))
    if sequence_ids_T is not None:
        check_tensor("sequence_ids_T", sequence_ids_T, (None,), "integer", rewards_N)
    return advantage_op(
        rewards_N.detach(), group_ids_N, baseline, scale, eps, ddof == 1, singleton == "keep", sequence_ids_T, impl
    )
