"""What TRL 1.16 and verl 0.9 call and expect back, re-stated, and stand-ins for the modules of all hosts where they are
not installed. tests/kernels/hosts/test_installed_*.py compares both with the packages themselves where they are.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.support.kernels import openrlhf_contract, prime_rl_contract, slime_contract


@dataclass(frozen=True)
class HeadCase:
    """One configuration of a model's output layer; every tensor comes from one seed."""

    name: str
    temperature: float = 1.0
    softcap: float | None = None
    scale: float = 1.0
    bias: bool = False
    frozen: bool = False
    entropy: str = "logged"  # "none", "logged" (computed, without a gradient) or "trained"


HEAD_CASES = (
    HeadCase("plain"),
    HeadCase("temperature", temperature=0.7),
    HeadCase("softcap", softcap=3.0),
    HeadCase("scale", scale=0.125),
    HeadCase("softcap, scale, bias", softcap=5.0, scale=2.5, bias=True, temperature=1.3),
    HeadCase("frozen head", frozen=True, temperature=0.7),
    HeadCase("frozen head, everything", frozen=True, softcap=4.0, scale=1.7, bias=True, entropy="trained"),
    HeadCase("entropy bonus", entropy="trained", bias=True),
    HeadCase("no entropy", entropy="none"),
)


class StockHead(torch.autograd.Function):
    """TRL's `ChunkedLogProbFunction`: parameters, results and dtypes; its sums in one piece."""

    # One parameter each: TRL's, by position.
    @staticmethod
    def forward(
        ctx, hidden, weight, bias, targets, temperature, chunk_size, final_logit_softcapping=None, logit_scale=1.0,
        outputs=("entropy", "log_sum_sq_probs", "mean_logits", "is_top1"),
    ):  # fmt: skip
        raise NotImplementedError("`stock_head` computes it, so that autograd makes the gradients")


def stock_head(case: HeadCase, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> list[Tensor]:
    """Return (log-probs, entropy) with z = softcap tanh(scale x / softcap) / temperature, through the logits."""
    z = torch.nn.functional.linear(hidden, weight, bias) * case.scale
    z = z if case.softcap is None else case.softcap * torch.tanh(z / case.softcap)
    log_p = (z / case.temperature).log_softmax(-1)
    return [log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)]


class LinearCrossEntropy(torch.autograd.Function):
    """verl's: the parameters alone, its kernels need a GPU."""

    # One parameter each: verl's, by position.
    @staticmethod
    def forward(ctx, hidden, weight, labels, temperature=1.0, reduction="none", dist_process_group=None):
        raise NotImplementedError


# One parameter each: verl's.
def stock_vanilla(
    old_log_prob, log_prob, advantages, response_mask, loss_agg_mode="token-mean", config=None,
    rollout_is_weights=None,
):  # fmt: skip
    """Return (loss, metrics) as verl 0.9.1's `compute_policy_loss_vanilla`."""
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    bound = config.get("clip_ratio_c", 3.0)
    log_ratio = (log_prob - old_log_prob).clamp(-20.0, 20.0)
    ratio = log_ratio.exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high)
    first, third = torch.maximum(plain, clipped), -advantages * bound
    losses = torch.where(advantages < 0, torch.min(third, first), first)
    losses = losses if rollout_is_weights is None else losses * rollout_is_weights
    mean = {
        "actor/pg_clipfrac": clipped > plain,
        "actor/ppo_kl": -log_ratio,
        "actor/pg_clipfrac_lower": (first > third) & (advantages < 0),
    }
    metrics = {k: float((v * response_mask).sum().detach() / response_mask.sum()) for k, v in mean.items()}
    return aggregate(losses, response_mask, loss_agg_mode, **config.global_batch_info), metrics


# One parameter each: verl's.
def aggregate(
    losses, mask, mode, dp_size=1, batch_num_tokens=None, global_batch_size=None, loss_scale_factor=None
) -> Tensor:
    """Return verl's `agg_loss`."""
    sequences = (mask.sum(-1) > 0).sum() if global_batch_size is None else global_batch_size
    tokens = mask.sum() if batch_num_tokens is None else batch_num_tokens
    total = (losses * mask).sum()
    return (
        dp_size
        * {
            "token-mean": lambda: total / tokens,
            "token-sum": lambda: total,
            "seq-mean-token-sum": lambda: total / sequences,
            "seq-mean-token-sum-norm": lambda: total / sequences / (loss_scale_factor or mask.shape[-1]),
            "seq-mean-token-mean": lambda: ((losses * mask).sum(-1) / (mask.sum(-1) + 1e-8)).sum() / sequences,
        }[mode]()
    )


MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")


@dataclass
class ActorConfig:
    """verl's, as far as the vanilla loss reads it."""

    clip_ratio: float = 0.2
    clip_ratio_low: float | None = None
    clip_ratio_high: float | None = 0.28
    clip_ratio_c: float = 3.0
    global_batch_info: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: Any) -> Any:
        return getattr(self, name, default)


def forward_with_triton_backend(model, hidden, labels, temperature=1.0):
    """Do what verl's does behind the backbone: import the function when called, and hand it the head's weight."""
    names = vars(sys.modules["verl.utils.kernel.linear_cross_entropy"])
    return names["linear_cross_entropy"](hidden, model.lm_head.weight, labels, temperature, "none")


VISION = ("qwen2_vl", "qwen3_vl", "qwen3_5", "glm4v")  # verl's modules of vision models, which have no stand-in


def stand_in_modules() -> dict[str, types.ModuleType]:
    """Return fresh modules of all hosts by name, as far as they are patched."""
    contents: dict[str, dict[str, Any]] = {
        "trl.trainer.utils": {"_ChunkedLogProbFunction": StockHead},
        "verl.utils.kernel.linear_cross_entropy": {
            "LinearCrossEntropy": LinearCrossEntropy, "linear_cross_entropy": LinearCrossEntropy.apply,
        },
        "verl.trainer.ppo.core_algos": {"POLICY_LOSS_REGISTRY": {"vanilla": stock_vanilla}},
        "verl.models.transformers.dense_common": {"forward_with_triton_backend": forward_with_triton_backend},
    }  # fmt: skip
    contents |= slime_contract.MODULES | openrlhf_contract.MODULES | prime_rl_contract.MODULES
    modules = {}
    for name in contents:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        vars(modules[name]).update(contents[name])
    early = types.ModuleType("verl.models.mcore.model_forward_fused")  # imported the function at its head
    vars(early)["linear_cross_entropy"] = contents["verl.utils.kernel.linear_cross_entropy"]["linear_cross_entropy"]
    return modules | {"verl.models.mcore.model_forward_fused": early}
