"""What OpenRLHF (August 2026) calls for log-probs, entropies and its policy loss, and expects back, re-stated."""

import torch


def log_probs_from_logits(logits, labels, temperature=1.0):
    if temperature != 1.0:
        logits.div_(temperature)
    return logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def compute_entropy(logits):
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def masked_mean(value, mask, dim=None):
    return (value * mask).sum(dim=dim) / mask.sum(dim=dim)


# More than 6 parameters: OpenRLHF's.
def aggregate_loss(loss, mask, token_level_loss, dp_size=1, batch_num_tokens=None, global_batch_size=None):
    if token_level_loss:
        if batch_num_tokens is None:
            return masked_mean(loss, mask)
        return (loss * mask).sum() / batch_num_tokens * dp_size
    lengths = mask.sum(-1)
    by_row, kept = (loss * mask).sum(-1) / (lengths + 1e-8), (lengths > 0).float()
    if global_batch_size is None:
        return masked_mean(by_row, kept)
    return (by_row * kept).sum() / global_batch_size * dp_size


class PolicyLoss(torch.nn.Module):
    # More than 6 parameters: OpenRLHF's.
    def __init__(
        self, clip_eps_low=0.2, clip_eps_high=0.2, dual_clip=None, token_level_loss=True, policy_loss_type="ppo",
        enable_vllm_is_correction=False, vllm_is_truncated_threshold=None, vllm_is_correction_type="tis",
    ):  # fmt: skip
        super().__init__()
        self.clip_eps_low, self.clip_eps_high, self.dual_clip = clip_eps_low, clip_eps_high, dual_clip
        self.token_level_loss, self.policy_loss_type = token_level_loss and policy_loss_type != "gspo", policy_loss_type
        self.enable_vllm_is_correction = enable_vllm_is_correction
        self.vllm_is_truncated_threshold = vllm_is_truncated_threshold
        self.vllm_is_correction_type = vllm_is_correction_type

    # More than 6 parameters: OpenRLHF's.
    def forward(
        self, log_probs, old_log_probs, advantages, action_mask=None, rollout_log_probs=None, dp_size=1,
        batch_num_tokens=None, global_batch_size=None,
    ):  # fmt: skip
        """Return (loss, clip ratio, KL of the old policy, KL of the sampler or None)."""
        ratio = (log_probs - old_log_probs).clamp(-20, 20).exp()
        if self.policy_loss_type == "gspo":
            old = rollout_log_probs if self.enable_vllm_is_correction else old_log_probs
            mean = ((log_probs - old) * action_mask).sum(-1) / action_mask.sum(-1).clamp(min=1)
            ratio = mean.exp().unsqueeze(-1) * action_mask
        plain, clipped = ratio * advantages, ratio.clamp(1 - self.clip_eps_low, 1 + self.clip_eps_high) * advantages
        lower = torch.min(plain, clipped)
        if self.dual_clip is not None:
            lower = torch.where(advantages < 0, torch.max(lower, self.dual_clip * advantages), lower)
        loss, sampler_kl = -lower, None
        if self.enable_vllm_is_correction and self.policy_loss_type == "ppo":
            loss = self._weights(old_log_probs - rollout_log_probs, action_mask) * loss
            sampler_kl = masked_mean(rollout_log_probs - old_log_probs, action_mask)
        counts = dp_size, batch_num_tokens, global_batch_size
        loss = aggregate_loss(loss, action_mask, self.token_level_loss, *counts)
        clip_ratio = masked_mean((clipped < plain).float(), action_mask)
        return loss, clip_ratio, masked_mean((old_log_probs - log_probs).detach(), action_mask), sampler_kl

    def _weights(self, log_ratio, mask):
        low, high = self.vllm_is_truncated_threshold
        weight = log_ratio.exp()
        if self.vllm_is_correction_type == "icepop":
            return weight * ((weight >= low) & (weight <= high))
        if self.vllm_is_correction_type == "seq-mask-tis":
            mean = masked_mean(log_ratio, mask, dim=-1).exp()
            return weight * ((mean >= low) & (mean <= high)).unsqueeze(-1)
        return weight.clamp(low, high)


_FUNCTIONS = {"log_probs_from_logits": log_probs_from_logits, "compute_entropy": compute_entropy}
MODULES = {
    "openrlhf.models.utils": _FUNCTIONS,
    "openrlhf.models.actor": _FUNCTIONS,
    "openrlhf.models.loss": {"PolicyLoss": PolicyLoss},
    "openrlhf.trainer.ray.ppo_actor": {"PolicyLoss": PolicyLoss},
}
