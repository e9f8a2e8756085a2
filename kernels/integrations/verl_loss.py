"""verl's `vanilla` policy loss (PPO with dual clip) in its five aggregation modes, by `policy_loss`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..losses.policy_loss import policy_loss

LOSS_PARAMETERS = (
    "old_log_prob", "log_prob", "advantages", "response_mask", "loss_agg_mode", "config", "rollout_is_weights",
)  # fmt: skip


class GlobalBatch(NamedTuple):
    """verl's `config.global_batch_info`, which it fills before every micro-batch; None: count this call alone."""

    dp_size: int = 1
    batch_num_tokens: int | Tensor | None = None
    global_batch_size: int | Tensor | None = None
    loss_scale_factor: float | None = None


class VanillaLoss:
    """What stands in the place of verl's `compute_policy_loss_vanilla`."""

    def __init__(self, impl: str | None) -> None:
        self.impl = impl

    # More than 6 parameters: verl's.
    def __call__(
        self,
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return (loss, metrics) as verl's own, from tensors [rows, width].

        verl calls backward after every micro-batch and lets the ranks average: the normalizer is the global batch's
        divided by the ranks. One call without a loss token is 0 where verl's is 0/0.
        Raises ValueError for an unknown mode, or where ranks need a global count that is missing.
        """
        rows, width = log_prob.shape
        aggregate, normalizer = normalization(loss_agg_mode, GlobalBatch(**config.global_batch_info), response_mask)
        (low, high, dual), by_sequence = clipping(config), aggregate == "sequence_mean"
        # Weights are constants, and the loss is linear in the advantage.
        weighted = advantages if rollout_is_weights is None else advantages * rollout_is_weights
        ids_T = torch.arange(rows, device=log_prob.device).repeat_interleave(width) if by_sequence else None
        loss, _ = policy_loss(
            log_prob.flatten(), old_log_prob.flatten(), weighted.flatten(), advantage_level="token",
            sequence_ids_T=ids_T, mask_T=response_mask.flatten().bool(),
            clip_low=low, clip_high=high, dual_clip=dual, aggregate=aggregate, normalizer=normalizer, impl=self.impl,
        )  # fmt: skip
        return loss, _metrics(log_prob.detach() - old_log_prob, advantages, response_mask, (low, high, dual))


def normalization(mode: str, batch: GlobalBatch, mask: Tensor) -> tuple[str, float | Tensor]:
    """Return our aggregation and the number to divide by for verl's `agg_loss` in `mode`; mask [rows, width]."""
    if mode == "token-sum":
        return "constant", 1.0 / batch.dp_size
    if mode == "token-mean":
        return "constant", _per_rank("batch_num_tokens", batch.batch_num_tokens, mask.sum(), batch.dp_size)
    sequences = (mask.sum(-1) > 0).sum()
    per_rank = _per_rank("global_batch_size", batch.global_batch_size, sequences, batch.dp_size)
    if mode == "seq-mean-token-mean":
        return "sequence_mean", per_rank
    if mode == "seq-mean-token-sum":
        return "constant", per_rank
    if mode == "seq-mean-token-sum-norm":
        width = mask.shape[-1]
        return "constant", per_rank * (width if batch.loss_scale_factor is None else batch.loss_scale_factor)
    raise ValueError(f"loss_agg_mode: got {mode!r}, expected one of verl's five")


def _per_rank(name: str, known: int | Tensor | None, here: Tensor, dp_size: int) -> float | Tensor:
    if known is not None:
        return known / dp_size
    if dp_size > 1:
        raise ValueError(f"{name}: got None, expected the global batch's, with dp_size {dp_size}")
    return here.clamp(min=1)


def clipping(config: Any) -> tuple[float, float, float]:
    """Return (clip_low, clip_high, dual_clip) of verl's actor config."""
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    return low, high, config.get("clip_ratio_c", 3.0)


def _metrics(log_ratio: Tensor, advantages: Tensor, mask: Tensor, clip: tuple[float, float, float]) -> dict[str, float]:
    """Return verl's own three, over the loss tokens of this call (0 loss tokens: zeros)."""
    low, high, dual = clip
    keep, log_ratio = mask.bool(), log_ratio.clamp(-20.0, 20.0)
    ratio = log_ratio.exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high)
    is_lower = (torch.maximum(plain, clipped) > -advantages * dual) & (advantages < 0)
    columns = torch.stack([x.to(log_ratio.dtype) for x in (clipped > plain, -log_ratio, is_lower)])
    means = columns.masked_fill(~keep, 0.0).sum((1, 2)) / keep.sum().clamp(min=1)
    return dict(zip(("actor/pg_clipfrac", "actor/ppo_kl", "actor/pg_clipfrac_lower"), means.tolist(), strict=True))
