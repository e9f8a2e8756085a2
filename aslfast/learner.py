"""The learner: micro-batches, backward, clip, AdamW. Only one role's adapter weights move."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from aslfast_kernels import PolicyMetrics, linear_logprob
from peft import PeftModel
from torch import Tensor

from aslfast import adapter, batch
from aslfast.batch import Batch, Layout
from aslfast.core import Trajectory
from aslfast.errors import UserError
from aslfast.loss import LossConfig, LossInputs, loss_of


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    learning_rate: float = 1e-6
    weight_decay: float = 0.0
    grad_clip: float = 1.0  # of the adapter's gradient norm
    micro_batch_tokens: int = 16384  # padded tokens of one forward pass
    layout: str = "padded"  # "padded": one row a trajectory; "packed": one row for all


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one optimizer step did. kl: k3 of the adapter against the base, per live token, before the step."""

    loss: float
    grad_norm: float
    kl: float
    clip_share: float
    ratio_max: float
    mismatch: float  # mean |log-prob difference| between learner and sampler
    live_tokens: int


LAYOUTS: dict[str, Callable[[Batch], Layout]] = {"padded": batch.padded, "packed": batch.packed}


@dataclass
class _Sums:
    """What a step adds up over its micro-batches."""

    loss: float = 0.0
    kl: float = 0.0
    clipped: float = 0.0
    mismatch: float = 0.0
    ratio_max: float = 0.0

    def add(self, loss: Tensor, metrics: PolicyMetrics, gap_T: Tensor) -> None:
        n = len(gap_T)
        self.loss += float(loss.detach())
        self.kl += float(metrics.kl_ref) * n
        self.clipped += float(metrics.clip_share) * n
        self.mismatch += float(gap_T.abs().sum())
        self.ratio_max = max(self.ratio_max, float(metrics.ratio_max))


class Learner:
    """Holds the optimizers of all roles over one PEFT model."""

    def __init__(
        self, model: PeftModel, config: LearnerConfig, loss: LossConfig, temperature: float, roles: Sequence[str]
    ) -> None:
        if temperature <= 0:
            raise UserError("sampler.temperature is 0: greedy rollouts teach nothing; set it above 0, for example 1.0")
        self.model, self.config, self.loss, self.temperature = model, config, loss, temperature
        options = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "betas": (0.9, 0.95)}
        self.optimizers = {role: torch.optim.AdamW(adapter.parameters_of(model, role), **options) for role in roles}
        self.version = dict.fromkeys(roles, 0)  # optimizer steps so far: the adapter's version

    def step(self, role: str, trajectories: Sequence[Trajectory], advantages: Sequence[float]) -> StepStats:
        """One optimizer step on these trajectories, of which at least one sampled a token.

        Raises UserError where the gradient is not finite; the weights are then as before.
        """
        self.model.set_adapter(role)
        sums = self._accumulate(trajectories, advantages)
        grad_norm = self._update(role)
        live = sum(t.n_sampled for t in trajectories)
        kl, clipped, mismatch = sums.kl / live, sums.clipped / live, sums.mismatch / live
        return StepStats(sums.loss, grad_norm, kl, clipped, sums.ratio_max, mismatch, live)

    def _accumulate(self, trajectories: Sequence[Trajectory], advantages: Sequence[float]) -> _Sums:
        """The gradient of the active adapter, summed over micro-batches."""
        normalizer, sums = self._normalizer(trajectories), _Sums()
        for part in batch.micro_batches(trajectories, advantages, self.config.micro_batch_tokens):
            inputs = self._inputs(part.to(self.model.device), normalizer)
            loss, metrics = loss_of(inputs, self.loss)
            loss.backward()
            sums.add(loss, metrics, inputs.logp_T.detach() - inputs.sampler_logp_T)
        return sums

    def _update(self, role: str) -> float:
        """Clips and applies the gradient; its norm before the clip."""
        optimizer, parameters = self.optimizers[role], adapter.parameters_of(self.model, role)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.grad_clip))
        if not math.isfinite(grad_norm):
            optimizer.zero_grad(set_to_none=True)
            raise UserError(f"{role}: the gradient's norm is {grad_norm}; lower learner.learning_rate")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.version[role] += 1
        return grad_norm

    def _normalizer(self, trajectories: Sequence[Trajectory]) -> float:
        """What the whole step's sum is divided by: its live tokens, or its trajectories that have any."""
        if self.loss.aggregate == "sequence_mean":
            return float(sum(t.n_sampled > 0 for t in trajectories))
        return float(sum(t.n_sampled for t in trajectories))

    def _inputs(self, part: Batch, normalizer: float) -> LossInputs:
        with torch.no_grad(), self.model.disable_adapter():
            base_logp_T = self.logprobs(part)
        live_T = part.live_T
        sampler_logp_T, sequence_T = part.sampler_logp_T[live_T], part.sequence_T[live_T]
        return LossInputs(self.logprobs(part), sampler_logp_T, base_logp_T, sequence_T, part.advantage_S, normalizer)

    def logprobs(self, part: Batch) -> Tensor:
        """Log-probs of the live targets [live tokens], float32, temperature-scaled, with the active adapter."""
        layout = LAYOUTS[self.config.layout](part)
        base: Any = self.model.get_base_model()
        head, live_T = base.get_output_embeddings(), part.live_T
        hidden_BTD = base.get_decoder()(
            input_ids=layout.input_BT, position_ids=layout.position_BT, attention_mask=layout.mask, use_cache=False
        ).last_hidden_state
        logp = linear_logprob(
            hidden_BTD[layout.row_T[live_T], layout.column_T[live_T]], head.weight, part.target_T[live_T],
            bias=getattr(head, "bias", None), temperature=self.temperature,
            softcap=getattr(base.config, "final_logit_softcapping", None),
        )  # fmt: skip
        assert isinstance(logp, Tensor)  # no entropies were asked for
        return logp
