"""Batch + log-probs -> loss: the clipped policy-gradient loss, summed so that micro-batches add up exactly."""

from __future__ import annotations

from dataclasses import dataclass

from aslfast_kernels import PolicyMetrics, policy_loss
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Clipping and aggregation; the formulas are in aslfast_kernels.policy_loss."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 0.0  # 0: off
    kl_coef: float = 0.0  # weight of the KL to the base
    aggregate: str = "token_mean"


@dataclass(frozen=True)
class LossInputs:
    """Live tokens alone, in the batch's order: log-probs under the learner, the sampler and the base."""

    logp_T: Tensor
    sampler_logp_T: Tensor
    base_logp_T: Tensor
    sequence_T: Tensor
    advantage_S: Tensor
    normalizer: float  # live tokens, or sequences with any, of the whole step


def loss_of(inputs: LossInputs, config: LossConfig) -> tuple[Tensor, PolicyMetrics]:
    """The scalar to minimise and its metrics. On-policy: the sampler's log-probs are the old ones."""
    return policy_loss(
        inputs.logp_T,
        inputs.sampler_logp_T,
        inputs.advantage_S,
        sequence_ids_T=inputs.sequence_T,
        advantage_level="sequence",
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip or None,
        ref_logp_T=inputs.base_logp_T,
        kl_coef=config.kl_coef,
        aggregate=config.aggregate,
        normalizer=inputs.normalizer,
    )
