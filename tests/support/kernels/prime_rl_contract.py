"""What prime-rl (August 2026) calls for log-probs and losses, and expects back, re-stated through the logits."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


class _SequenceChunkedLogProbEntropyFn(torch.autograd.Function):
    """The parameters alone; `stock_head` computes it, so that autograd makes the gradients."""

    # More than 6 parameters: prime-rl's, by position.
    @staticmethod
    def forward(ctx, hidden, weight, labels, inv_temperature, chunk_size):
        raise NotImplementedError


class _GemmaChunkedLogProbEntropyFn(torch.autograd.Function):
    # More than 6 parameters: prime-rl's, by position.
    @staticmethod
    def forward(ctx, hidden, weight, labels, inv_temperature, chunk_size, softcap):
        raise NotImplementedError


# More than 6 parameters: prime-rl's, by position.
def stock_head(hidden, weight, labels, inv_temperature, chunk_size, softcap=None):
    """Return (log-probs, entropy), [N] each; prime-rl's entropy has no gradient."""
    z = hidden @ weight.T
    z = (z if softcap is None else softcap * torch.tanh(z / softcap)) * inv_temperature[:, None]
    log_p = z.log_softmax(-1)
    return log_p.gather(1, labels[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1).detach()


@dataclass
class LossInputs:
    trainer_logprobs: Tensor
    inference_logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    loss_mask: Tensor
    loss_weights: Tensor | None = None


@dataclass
class LossOutputs:
    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class DefaultLossConfig:
    dppo_mask_low: float = 0.2
    dppo_mask_high: float = 0.2
    adv_tau: float = 1.0
    kl_tau: float = 1e-3


def default_loss_fn(inputs, loss_config):
    """Return prime-rl's DPPO with binary total variation and a squared log-ratio, summed over the sample."""
    new, old, a = inputs.trainer_logprobs, inputs.inference_logprobs, inputs.advantages
    moved = new.exp() - old.exp()
    invalid = torch.where(a > 0, moved > loss_config.dppo_mask_high, moved < -loss_config.dppo_mask_low)
    surrogate = (inputs.loss_mask & ~invalid) * (loss_config.adv_tau * a) * (new - old).exp()
    loss = -surrogate + loss_config.kl_tau * (inputs.loss_mask * (new - old) ** 2)
    return LossOutputs((loss if inputs.loss_weights is None else loss * inputs.loss_weights).sum())


MODULES = {
    "prime_rl.trainer.models.layers.lm_head": {"_SequenceChunkedLogProbEntropyFn": _SequenceChunkedLogProbEntropyFn},
    "prime_rl.trainer.models.layers.lm_head_gemma": {"_GemmaChunkedLogProbEntropyFn": _GemmaChunkedLogProbEntropyFn},
    "prime_rl.trainer.rl.loss": {
        "LossOutputs": LossOutputs, "default_loss_fn": default_loss_fn, "DefaultLossConfig": DefaultLossConfig,
    },
}  # fmt: skip
