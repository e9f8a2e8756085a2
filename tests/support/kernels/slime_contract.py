"""What slime (August 2026) calls for log-probs and expects back, re-stated through the logits; one rank."""

import torch


# More than 6 parameters: slime's.
def calculate_log_probs_and_entropy(
    logits, tokens, tp_group, with_entropy=False, chunk_size=-1, log_prob_keep_mask=None, with_entropy_grad=True
):
    """Return ([T, 1], [T] or None): over what the mask and the target keep, and the entropy over all; [0] for T = 0."""
    if not len(logits):
        return logits.new_zeros(0), logits.new_zeros(0) if with_entropy else None
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    if log_prob_keep_mask is not None:
        keep = log_prob_keep_mask.scatter(1, tokens[:, None], True)
        log_p = logits.masked_fill(~keep, -torch.inf).log_softmax(-1)
    entropy = entropy if with_entropy_grad else entropy.detach()
    return log_p.gather(1, tokens[:, None]), entropy if with_entropy else None


MODULES = {
    "slime.utils.ppo_utils": {"calculate_log_probs_and_entropy": calculate_log_probs_and_entropy},
    "slime.backends.megatron_utils.loss": {"calculate_log_probs_and_entropy": calculate_log_probs_and_entropy},
}
