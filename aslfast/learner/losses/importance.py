"""Importance weights that correct for the difference between the learner's and the sampler's log-probs."""

from __future__ import annotations

import torch
from torch import Tensor

from aslfast.config.learning import LossConfig
from aslfast.learner.losses.by_sequence import sequence_mean, sequence_sum

MAX_LOG_RATIO = 20.0  # as in aslfast_kernels.policy_loss; verl and slime bound it there too, TRL does not


def importance_weights(log_ratio_L: Tensor, sequence_L: Tensor, config: LossConfig) -> Tensor:
    """Return the weight of each loss token [L], without a gradient.

        d_t = log pi(t) - log mu(t), pi the learner, mu the sampler
        token       w_t = exp(d_t)
        sequence    w_t = exp(sum of d over t's trajectory), the ratio of the trajectories' probabilities
        geometric   w_t = exp(mean of d over t's trajectory)
        truncate    w_t -> min(max(w_t, tis_floor), tis_cap)
        mask        w_t -> w_t if tis_floor <= w_t <= tis_cap, else 0
    Sources: TRL 1.16 `vllm_importance_sampling_mode` (token and sequence, both modes, floor and cap); verl 0.9
    `compute_rollout_correction_weights` (a cap truncates, two bounds mask: IcePop); slime `compute_mis_weights`
    (geometric; its "clip" is our truncate with a floor). A masked token counts in the loss's mean, as in TRL and in
    verl's IcePop; slime's mask and verl's rejection mask take it out of the mean.
    """
    d_L = log_ratio_L.detach()
    if config.tis_level != "token":
        d_L = (sequence_sum if config.tis_level == "sequence" else sequence_mean)(d_L, sequence_L)
    weight_L = d_L.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    if config.tis_mode == "truncate":
        return weight_L.clamp(config.tis_floor, config.tis_cap)
    inside_L = (weight_L >= config.tis_floor) & (weight_L <= config.tis_cap)
    return torch.where(inside_L, weight_L, 0.0)


def is_kernels_own(config: LossConfig) -> bool:
    """Return whether the weights are those that `aslfast_kernels.policy_loss` makes: one a token, with a cap alone."""
    return (config.tis_level, config.tis_mode, config.tis_floor) == ("token", "truncate", 0.0)
