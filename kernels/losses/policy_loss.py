"""`policy_loss`: the checks, and the choice of an implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import (
    as_mask,
    check_choice,
    check_indices,
    check_not_negative,
    check_positive,
    check_tensor,
    choose_impl,
    compute_dtype,
)
from .operators import policy_loss_op
from .reference import KL_KINDS, PolicyMetrics

__all__ = ["PolicyMetrics", "policy_loss"]


# More than 6 parameters: the public function takes all options by name.
def policy_loss(
    logp_T: Tensor,
    old_logp_T: Tensor,
    advantage: Tensor,
    *,
    sequence_ids_T: Tensor | None = None,
    mask_T: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    ref_logp_T: Tensor | None = None,
    kl_coef: float = 0.0,
    kl_kind: str = "k3",
    ratio_level: str = "token",
    kind: str = "ppo",
    sampler_logp_T: Tensor | None = None,
    tis_cap: float | None = None,
    weights_T: Tensor | None = None,
    aggregate: str = "token_mean",
    normalizer: float | Tensor | None = None,
    advantage_level: str | None = None,
    impl: str | None = None,
) -> tuple[Tensor, PolicyMetrics]:
    """Return (scalar loss to minimise, metrics). Only `logp_T` receives a gradient; log-probs are in nats.

        d_t = logp_t - old_t;  r_t = exp(d_t), or, for ratio_level "sequence", r_t = exp(mean of d over t's sequence);
                for "sequence_token", the same number, but as stopgrad(r_t / p_t) p_t with p_t the token's probability
        ppo:    l_t = -min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t);  where A_t < 0 and dual_clip is set,
                l_t = min(l_t, -dual_clip A_t)
        cispo:  l_t = -stopgrad(clip(r_t, 1 - clip_low, 1 + clip_high)) A_t logp_t
        tis:    l_t *= stopgrad(min(exp(old_t - sampler_t), tis_cap));  l_t *= stopgrad(weights_t)
        kl:     l_t += kl_coef k_t, for kl_kind "k3" with k_t = exp(ref_t - logp_t) - (ref_t - logp_t) - 1
        loss =  sum_t l_t / normalizer  or, for "sequence_mean",  sum_s mean_{t in s} l_t / normalizer
    All sums and means run over loss tokens: `mask_T` True and a sequence id >= 0. What masked tokens hold is never
    read. With no loss token the loss is 0 and so is its gradient.

    aggregate  "token_mean" (DAPO, arXiv 2503.14476): default normalizer = loss tokens of this call
               "sequence_mean" (GRPO, 2402.03300): default normalizer = sequences of this call with a loss token
               "constant" (Dr. GRPO, 2503.20783): a sum over tokens; the normalizer must be passed
    normalizer: the count over the whole batch; then the losses of micro-batches and ranks add up to the batch's (for
        "sequence_mean" and ratio_level "sequence" no sequence may be cut in two).
    Sources: clipping 1707.06347, clip_high > clip_low DAPO, dual clip 1912.09729 (there c = 3), sequence ratios GSPO
        2507.18071 (with "sequence_mean"), "sequence_token" its GSPO-token and verl's `gspo`, CISPO 2506.13585, k3 and
        group advantages GRPO, truncated importance sampling Yao et al. 2025 ("Your efficient RL framework secretly
        brings you off-policy RL training").
    We differ in one place: every log-ratio is clamped to +-20 before exp (4.9e8), so that a run-away token cannot make
    inf * 0 = NaN; beyond it the ratio passes no gradient.

    advantage: per token [T], or per sequence [S] and then picked by `sequence_ids_T`; a length of T means per token.
        Where S may happen to equal T, say so by advantage_level="token" or "sequence".
    sequence_ids_T [T] integers: -1 is padding; needed for sequence advantages, "sequence_mean" and sequence ratios.
    weights_T [T]: weights >= 0 of other kinds, such as those of `importance_weights`. A token with a weight of 0 has no
        part in the sum and does not count as clipped, but counts in every mean.
    kl_kind: an estimate of `kl_estimate`: "k1", "k2", "k3", "abs", and with the value of k1 or k3 and the gradient of
        k2 ("straight through") "k1+" and "k3+".
    clip_low, clip_high: math.inf does not clip on that side.
    mask_T [T]: bool, integers or floats; what is not 0 is a loss token (a fraction is no weight).
    Log-probs [T] in any floating dtype; the arithmetic and the loss are float32 (float64 for float64).
    impl "triton": one launch makes the loss, its gradient and the metrics, and one the backward's product; nothing is
        read back. It computes in float32, takes 2^21 tokens, and sequence ids below 65,536 or the number of tokens
        (below S with advantages per sequence): an id beyond that cannot raise without waiting, and makes the loss NaN.
    Raises ValueError or TypeError naming the argument; ValueError for options that exclude each other.
    """
    check_tensor("logp_T", logp_T, (None,), "float")
    impl = choose_impl(impl, logp_T)
    tokens = logp_T.shape[0]
    named = {"old_logp_T": old_logp_T, "ref_logp_T": ref_logp_T, "sampler_logp_T": sampler_logp_T}
    for name, tensor in named.items():
        if tensor is not None:
            check_tensor(name, tensor, (tokens,), "float", logp_T)
    mask_T = as_mask("mask_T", mask_T, logp_T)
    level = _check_advantage(advantage, advantage_level, sequence_ids_T, logp_T)
    if weights_T is not None:
        check_tensor("weights_T", weights_T, (tokens,), "float", logp_T)
        advantage, level = _weighted(advantage, level, sequence_ids_T, weights_T), "token"
    _check_options(clip_low, clip_high, dual_clip, kl_coef, tis_cap, kind)
    _check_sequences(sequence_ids_T, ratio_level, aggregate)
    check_choice("kl_kind", kl_kind, KL_KINDS)
    _check_companions(ref_logp_T, kl_coef, sampler_logp_T, tis_cap)
    _check_normalizer(normalizer, aggregate, logp_T)
    number, tensor = (None, normalizer) if isinstance(normalizer, Tensor) else (normalizer, None)
    loss, _, _, metrics_M, loss_tokens = policy_loss_op(
        logp_T, old_logp_T, advantage, sequence_ids_T, mask_T, clip_low, clip_high, dual_clip, ref_logp_T, kl_coef,
        kl_kind, ratio_level, kind, sampler_logp_T, tis_cap, aggregate, number, tensor, level, impl,
    )  # fmt: skip
    clip_fraction, approx_kl, ratio_min, ratio_max, kl_ref = metrics_M.unbind()
    return loss, PolicyMetrics(clip_fraction, approx_kl, ratio_min, ratio_max, kl_ref, loss_tokens)


def _check_advantage(advantage: Tensor, level: str | None, sequence_ids_T: Tensor | None, logp_T: Tensor) -> str:
    """Return the level at which the advantage is given, with it and the sequence ids checked."""
    check_choice("advantage_level", level, (None, "token", "sequence"))
    check_tensor("advantage", advantage, (None,), "float", logp_T)
    tokens = logp_T.shape[0]
    if sequence_ids_T is not None:
        check_tensor("sequence_ids_T", sequence_ids_T, (tokens,), "integer", logp_T)
    if level is None:
        level = "token" if advantage.shape[0] == tokens else "sequence"
    if level == "token":
        check_tensor("advantage", advantage, (tokens,), "float")
        return level
    if sequence_ids_T is None:
        got = list(advantage.shape)
        raise ValueError(f"advantage: got shape {got}, expected [{tokens}] (or [S] together with sequence_ids_T)")
    return level


def _weighted(advantage: Tensor, level: str, sequence_ids_T: Tensor | None, weights_T: Tensor) -> Tensor:
    """Return each token's advantage times its weight: every l_t without the KL term is linear in the advantage."""
    if level == "sequence" and sequence_ids_T is not None:
        check_indices("sequence_ids_T", sequence_ids_T, -1, advantage.shape[0], " (an index into advantage)")
        advantage = advantage[sequence_ids_T.clamp(min=0).long()]
    dtype = torch.promote_types(compute_dtype(weights_T), compute_dtype(advantage))
    return (advantage.to(dtype) * weights_T.to(dtype)).detach()


def _check_options(
    clip_low: float, clip_high: float, dual_clip: float | None, kl_coef: float, tis_cap: float | None, kind: str
) -> None:
    check_choice("kind", kind, ("ppo", "cispo"))
    check_not_negative("clip_low", clip_low, infinite=True)
    check_not_negative("clip_high", clip_high, infinite=True)
    check_not_negative("kl_coef", kl_coef)
    if tis_cap is not None:
        check_positive("tis_cap", tis_cap)
    if dual_clip is not None:
        check_positive("dual_clip", dual_clip, above=1.0)
    if dual_clip is not None and kind == "cispo":
        raise ValueError('dual_clip: got a number with kind="cispo", which has no dual clip; expected None')


def _check_sequences(sequence_ids_T: Tensor | None, ratio_level: str, aggregate: str) -> None:
    check_choice("ratio_level", ratio_level, ("token", "sequence", "sequence_token"))
    check_choice("aggregate", aggregate, ("token_mean", "sequence_mean", "constant"))
    by_sequence = ratio_level != "token" or aggregate == "sequence_mean"
    if by_sequence and sequence_ids_T is None:
        raise ValueError('sequence_ids_T: got None, expected [T] for ratios by sequence or "sequence_mean"')


def _check_companions(
    ref_logp_T: Tensor | None, kl_coef: float, sampler_logp_T: Tensor | None, tis_cap: float | None
) -> None:
    """Check log-probs and the numbers that are of use only together."""
    if kl_coef and ref_logp_T is None:
        raise ValueError(f"ref_logp_T: got None, expected [T] with kl_coef={kl_coef}")
    if (sampler_logp_T is None) != (tis_cap is None):
        raise ValueError("sampler_logp_T and tis_cap: expected both or neither")


def _check_normalizer(normalizer: float | Tensor | None, aggregate: str, like: Tensor) -> None:
    if aggregate == "constant" and normalizer is None:
        raise ValueError('normalizer: got None, expected a number with aggregate="constant"')
    if isinstance(normalizer, Tensor):
        if normalizer.dim() or normalizer.device != like.device:
            got = f"shape {list(normalizer.shape)} on {normalizer.device}"
            raise ValueError(f"normalizer: got {got}, expected a number or shape [] on {like.device}")
    elif normalizer is not None:
        check_positive("normalizer", normalizer)
