"""OpenRLHF's `PolicyLoss` (PPO and GSPO, dual clip, correction of the sampler's probabilities) by `policy_loss`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..losses.policy_loss import policy_loss
from ..objectives.weights import importance_weights

LOSS_PARAMETERS = (
    "self", "log_probs", "old_log_probs", "advantages", "action_mask", "rollout_log_probs", "dp_size",
    "batch_num_tokens", "global_batch_size",
)  # fmt: skip


def fused_policy_loss(theirs: type, impl: str | None) -> type:
    """Return a subclass of OpenRLHF's `PolicyLoss`, with its constructor and checks, that computes by `policy_loss`."""

    # More than 6 parameters: OpenRLHF's.
    def forward(
        self: Any,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        action_mask: Tensor | None = None,
        rollout_log_probs: Tensor | None = None,
        dp_size: int = 1,
        batch_num_tokens: float | Tensor | None = None,
        global_batch_size: float | Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return (loss, clip_ratio, ppo_kl, vllm_kl) as OpenRLHF's own, from tensors [rows, width].

        The normalizer is the global batch's divided by the ranks, since DeepSpeed averages over them.
        """
        mask = torch.ones_like(log_probs, dtype=torch.bool) if action_mask is None else action_mask.bool()
        weights, vllm_kl = _correction(self, old_log_probs, rollout_log_probs, mask)
        gspo = self.policy_loss_type == "gspo"
        old = rollout_log_probs if gspo and self.enable_vllm_is_correction else old_log_probs
        count = batch_num_tokens if self.token_level_loss else global_batch_size
        loss, _ = policy_loss(
            log_probs.flatten(), _given(old).flatten(), advantages.flatten(), advantage_level="token",
            sequence_ids_T=_rows(mask), mask_T=mask.flatten(), weights_T=weights, ratio_level="sequence" if gspo else
            "token", clip_low=self.clip_eps_low, clip_high=self.clip_eps_high, dual_clip=self.dual_clip,
            aggregate="token_mean" if self.token_level_loss else "sequence_mean",
            normalizer=None if count is None else count / dp_size, impl=impl,
        )  # fmt: skip
        with torch.no_grad():
            log_ratio = log_probs - old_log_probs
            clip_ratio = _mean(_is_clipped(self, log_probs - _given(old), advantages, mask), mask)
            return loss, clip_ratio, _mean(-log_ratio, mask), vllm_kl

    return type(theirs.__name__, (theirs,), {"forward": forward, "__doc__": theirs.__doc__})


def _given(rollout_log_probs: Tensor | None) -> Tensor:
    if rollout_log_probs is None:
        raise ValueError("rollout_log_probs: got None, expected [rows, width] with enable_vllm_is_correction")
    return rollout_log_probs


def _rows(mask: Tensor) -> Tensor:
    """Return each token's row [rows * width]."""
    return torch.arange(len(mask), device=mask.device).repeat_interleave(mask.shape[1])


@torch.no_grad()
def _correction(
    settings: Any, old: Tensor, rollout: Tensor | None, mask: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Return the weights of tokens [rows * width], and the mean of rollout - old; None where nothing is corrected."""
    if not settings.enable_vllm_is_correction or settings.policy_loss_type != "ppo":
        return None, None
    flat = old.flatten(), _given(rollout).flatten()
    (low, high), kind = settings.vllm_is_truncated_threshold, settings.vllm_is_correction_type
    options: dict[str, Any] = {"low": low, "high": high, "mask_T": mask.flatten(), "sequence_ids_T": _rows(mask)}
    if kind == "seq-mask-tis":  # the mean over a sequence filters, each token's own ratio is the weight
        within = importance_weights(*flat, mode="mask", level="geometric", **options) > 0
        weights = importance_weights(*flat, mask_T=options["mask_T"]) * within
    else:
        weights = importance_weights(*flat, mode="mask" if kind == "icepop" else "truncate", **options)
    return weights, _mean(_given(rollout) - old, mask)


def _is_clipped(settings: Any, log_ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Return where the clipped ratio is the lower bound."""
    if settings.policy_loss_type == "gspo":
        kept = log_ratio.masked_fill(~mask, 0.0)
        log_ratio = (kept.sum(-1) / mask.sum(-1).clamp(min=1)).unsqueeze(-1).expand_as(mask)
    ratio = log_ratio.clamp(-20.0, 20.0).exp()
    clipped = ratio.clamp(1 - settings.clip_eps_low, 1 + settings.clip_eps_high)
    return (clipped * advantages < ratio * advantages).to(log_ratio.dtype)


def _mean(value: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over loss tokens; 0 without one, where OpenRLHF has 0 / 0."""
    return value.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
