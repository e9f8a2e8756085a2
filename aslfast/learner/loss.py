"""Log-probs and advantages -> loss: the policy-gradient loss, summed so that micro-batches and ranks add up exactly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from aslfast.config.schema import LossConfig
from aslfast_kernels import PolicyMetrics, policy_loss


@dataclass(frozen=True)
class LossInputs:
    """The loss tokens' log-probs under the learner, the sampler and, where the loss or a metric needs it, the base."""

    logp_L: Tensor
    sampler_logp_L: Tensor
    base_logp_L: Tensor | None
    sequence_L: Tensor
    advantage_S: Tensor
    normalizer: float  # of the whole step: see normalizer_of


def normalizer_of(config: LossConfig, loss_tokens: int, sequences: int) -> float:
    """Return the divisor of the loss, given a whole step's loss tokens and its trajectories that have any."""
    counts = {"token_mean": loss_tokens, "sequence_mean": sequences, "constant": sequences * config.trajectory_tokens}
    return float(counts[config.aggregate])


def loss_of(inputs: LossInputs, config: LossConfig) -> tuple[Tensor, PolicyMetrics]:
    """Return the scalar to minimise and its metrics. A batch gets one optimizer step, so pi is the policy before it.

    tis_cap 0: the ratio is r_t = pi(t) / mu(t) with mu the sampler's own probability, and clipping acts on the mismatch
        between sampler and learner.
    tis_cap C: the old policy is the learner itself, r_t = pi(t) / stopgrad(pi(t)) = 1, and each token is weighted by
        w_t = min(pi(t) / mu(t), C), without a gradient: on policy the gradient is that of
        sum_t w_t A_t log pi(t) / normalizer (Yao et al. 2025, "Your efficient RL framework secretly brings you
        off-policy RL training"; per token, as in the source).
    """
    k3_coef = config.kl_coef if config.kl_estimator == "k3" else 0.0
    loss, metrics = policy_loss(
        inputs.logp_L,
        inputs.logp_L.detach() if config.tis_cap else inputs.sampler_logp_L,
        inputs.advantage_S,
        sequence_ids_T=inputs.sequence_L,
        advantage_level="sequence",
        kind=config.kind,
        ratio_level=config.ratio_level,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip or None,
        sampler_logp_T=inputs.sampler_logp_L if config.tis_cap else None,
        tis_cap=config.tis_cap or None,
        ref_logp_T=inputs.base_logp_L,
        kl_coef=k3_coef,
        aggregate=config.aggregate,
        normalizer=inputs.normalizer,
    )
    if config.kl_estimator == "k2" and config.kl_coef:
        loss = loss + config.kl_coef * _k2(inputs, config.aggregate)
    return loss, metrics


def _k2(inputs: LossInputs, aggregate: str) -> Tensor:
    """Return (logp - base)^2 / 2, aggregated as the loss is. Its expected gradient is that of the KL to the base."""
    assert inputs.base_logp_L is not None
    k2_L = (inputs.logp_L - inputs.base_logp_L).square() / 2
    if aggregate == "sequence_mean":
        k2_L = k2_L / inputs.sequence_L.bincount()[inputs.sequence_L]
    return k2_L.sum() / inputs.normalizer
