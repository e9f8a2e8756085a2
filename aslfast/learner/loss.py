"""Log-probs and advantages -> loss by name, summed so that micro-batches and ranks add up exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aslfast.config.learning import LossConfig
from aslfast.learner.losses.by_sequence import aggregated, sequence_mean
from aslfast.learner.losses.importance import MAX_LOG_RATIO, importance_weights, is_kernels_own
from aslfast.learner.losses.nft import nft_loss
from aslfast.learner.losses.squared import squared_loss
from aslfast_kernels import PolicyMetrics, policy_loss

WITHOUT_SURROGATE = ("nft", "sft", "squared")


@dataclass(frozen=True)
class LossInputs:
    """The loss tokens' log-probs under the learner, the sampler and, where the loss or a metric needs it, the base."""

    logp_L: Tensor
    sampler_logp_L: Tensor
    base_logp_L: Tensor | None
    sequence_L: Tensor
    advantage_S: Tensor
    normalizer: float  # of the whole step: see normalizer_of
    advantage_L: Tensor | None = None  # in place of advantage_S
    kl_weight_L: Tensor | None = None  # None: 1
    success_S: Tensor | None = None  # bool; with rate_S for kind nft
    rate_S: Tensor | None = None  # share of successes in the trajectory's group
    sft_weight_S: Tensor | None = None  # of the trajectory's negative log-likelihood


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
        off-policy RL training"; per token, as in the source). Other weights: losses/importance.py.
    ratio_level "sequence_token": r_t = stopgrad(s) pi(t) / stopgrad(pi(t)) with s the trajectory's ratio (GSPO-token,
        arXiv 2507.18071): its value is s, its gradient that of the token.
    kind "nft": losses/nft.py. kind "squared": losses/squared.py. kind "sft": -log pi(t). sft_weight_S adds that of
    some trajectories to any kind.
    """
    loss, metrics = _surrogate(inputs, config)
    for weight, value_L in _added_terms(inputs, config):
        loss = loss + weight * aggregated(value_L, inputs.sequence_L, config.aggregate, inputs.normalizer)
    return loss, metrics


def _surrogate(inputs: LossInputs, config: LossConfig) -> tuple[Tensor, PolicyMetrics]:
    """Return the policy-gradient loss with its KL as k3, and the metrics; of other kinds the latter two alone."""
    advantage, level = _advantage(inputs, config)
    kernel_tis = bool(config.tis_cap) and is_kernels_own(config)
    return policy_loss(
        inputs.logp_L,
        _old_logprobs(inputs, config),
        advantage,
        sequence_ids_T=inputs.sequence_L,
        advantage_level=level,
        kind="ppo" if config.kind in WITHOUT_SURROGATE else config.kind,
        ratio_level="token" if config.ratio_level == "sequence_token" else config.ratio_level,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip or None,
        sampler_logp_T=inputs.sampler_logp_L if kernel_tis else None,
        tis_cap=config.tis_cap if kernel_tis else None,
        ref_logp_T=inputs.base_logp_L,
        kl_coef=config.kl_coef if config.kl_estimator == "k3" and inputs.kl_weight_L is None else 0.0,
        aggregate=config.aggregate,
        normalizer=inputs.normalizer,
    )


def _old_logprobs(inputs: LossInputs, config: LossConfig) -> Tensor:
    """Return the log-probs [L] of the policy that ratios are against."""
    logp_L = inputs.logp_L.detach()
    if config.tis_cap:
        return logp_L
    if config.ratio_level == "sequence_token":
        return logp_L - sequence_mean(logp_L - inputs.sampler_logp_L, inputs.sequence_L)
    return inputs.sampler_logp_L


def _advantage(inputs: LossInputs, config: LossConfig) -> tuple[Tensor, str]:
    """Return the advantages and their level: of trajectories [S], or where tokens differ of tokens [L].

    Weights multiply the advantage: both surrogates are linear in it where weights are not negative.
    """
    if config.kind in WITHOUT_SURROGATE:
        return torch.zeros_like(inputs.advantage_S), "sequence"
    weighted = bool(config.tis_cap) and not is_kernels_own(config)
    if inputs.advantage_L is None and not weighted:
        return inputs.advantage_S, "sequence"
    by_token = inputs.advantage_S[inputs.sequence_L] if inputs.advantage_L is None else inputs.advantage_L
    if weighted:
        log_ratio_L = inputs.logp_L.detach() - inputs.sampler_logp_L
        by_token = by_token * importance_weights(log_ratio_L, inputs.sequence_L, config)
    return by_token, "token"


def _added_terms(inputs: LossInputs, config: LossConfig) -> list[tuple[float, Tensor]]:
    """Return what is added to the surrogate: weights, and values by token."""
    terms: list[tuple[float, Tensor]] = []
    if config.kl_coef and (config.kl_estimator == "k2" or inputs.kl_weight_L is not None):
        terms.append((config.kl_coef, _kl(inputs, config.kl_estimator)))
    if config.kind == "nft":
        terms.append((1.0, _nft(inputs, config)))
    if config.kind == "sft":
        terms.append((1.0, -inputs.logp_L))
    if config.kind == "squared":
        log_ratio_L, target_L = inputs.logp_L - inputs.sampler_logp_L, inputs.advantage_S[inputs.sequence_L]
        terms.append((1.0, squared_loss(log_ratio_L, target_L, inputs.sequence_L)))
    if inputs.sft_weight_S is not None:
        terms.append((1.0, -inputs.sft_weight_S[inputs.sequence_L] * inputs.logp_L))
    return terms


def _kl(inputs: LossInputs, estimator: str) -> Tensor:
    """Return the KL to the base by token, weighted.

    k2: (logp - base)^2 / 2, whose expected gradient is that of the KL to the base. k3: exp(-x) - 1 + x of the same
    difference x, bounded as in aslfast_kernels.policy_loss.
    """
    assert inputs.base_logp_L is not None
    difference_L = inputs.logp_L - inputs.base_logp_L
    if estimator == "k3":
        bounded_L = difference_L.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        kl_L = torch.expm1(-bounded_L) + bounded_L
    else:
        kl_L = difference_L.square() / 2
    return kl_L if inputs.kl_weight_L is None else kl_L * inputs.kl_weight_L


def _nft(inputs: LossInputs, config: LossConfig) -> Tensor:
    if inputs.success_S is None or inputs.rate_S is None:
        raise ValueError("loss.kind nft: a trajectory came without its group's success rate; pass Signals, not numbers")
    sequence_L, log_ratio_L = inputs.sequence_L, inputs.logp_L - inputs.sampler_logp_L
    return nft_loss(log_ratio_L, inputs.success_S[sequence_L], inputs.rate_S[sequence_L], config.nft_weight)
