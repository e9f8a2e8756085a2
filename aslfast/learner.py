"""The learner: micro-batches, backward, clip, AdamW. Only one role's adapter weights move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from aslfast_kernels import linear_logprob
from peft import PeftModel
from torch import Tensor

from aslfast import adapter, batch
from aslfast.batch import Batch, Layout
from aslfast.core import Trajectory
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


class Learner:
    """Holds the optimizers of all roles over one PEFT model."""

    def __init__(self, model: PeftModel, config: LearnerConfig, loss: LossConfig, temperature: float, roles: Sequence[str]) -> None:
        self.model, self.config, self.loss, self.temperature = model, config, loss, temperature
        self.optimizers = {
            role: torch.optim.AdamW(adapter.parameters_of(model, role), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95))
            for role in roles
        }  # fmt: skip
        self.version = dict.fromkeys(roles, 0)  # optimizer steps so far: the adapter's version

    def step(self, role: str, trajectories: Sequence[Trajectory], advantages: Sequence[float]) -> StepStats:
        """One optimizer step on these trajectories."""
        optimizer, parameters = self.optimizers[role], adapter.parameters_of(self.model, role)
        self.model.set_adapter(role)
        normalizer = self._normalizer(trajectories)
        totals = torch.zeros(5, dtype=torch.float64)
        for part in batch.micro_batches(trajectories, advantages, self.config.micro_batch_tokens):
            totals = self._accumulate(part, normalizer, totals)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.grad_clip))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.version[role] += 1
        loss, kl, clipped, mismatch, ratio_max = totals.tolist()
        live = sum(t.n_sampled for t in trajectories)
        return StepStats(loss, grad_norm, kl / live, clipped / live, ratio_max, mismatch / live, live)

    def _normalizer(self, trajectories: Sequence[Trajectory]) -> float:
        if self.loss.aggregate == "sequence_mean":
            return float(len(trajectories))
        return float(sum(t.n_sampled for t in trajectories))

    def _accumulate(self, part: Batch, normalizer: float, totals: Tensor) -> Tensor:
        with torch.no_grad(), self.model.disable_adapter():
            base_logp_T = self.logprobs(part)
        logp_T = self.logprobs(part)
        live_T = part.live_T
        sampler_logp_T = part.sampler_logp_T[live_T]
        inputs = LossInputs(logp_T, sampler_logp_T, base_logp_T, part.sequence_T[live_T], part.advantage_S, normalizer)
        loss, metrics = loss_of(inputs, self.loss)
        loss.backward()
        n = part.live_tokens
        added = [float(loss.detach()), float(metrics.kl_ref) * n, float(metrics.clip_share) * n, float((logp_T.detach() - sampler_logp_T).abs().sum())]
        return torch.tensor([*(totals[:4] + torch.tensor(added, dtype=torch.float64)), max(float(totals[4]), float(metrics.ratio_max))])

    def logprobs(self, part: Batch) -> Tensor:
        """Log-probs of the live targets [live tokens], float32, temperature-scaled, with the active adapter."""
        layout = LAYOUTS[self.config.layout](part)
        inner, head = self.model.get_base_model().model, self.model.get_output_embeddings()
        hidden_BTD = inner(input_ids=layout.input_BT, position_ids=layout.position_BT, attention_mask=layout.mask, use_cache=False).last_hidden_state
        live_T = part.live_T
        hidden_TD = hidden_BTD[layout.row_T[live_T], layout.column_T[live_T]]
        logp = linear_logprob(hidden_TD, head.weight, part.target_T[live_T], bias=getattr(head, "bias", None), temperature=self.temperature)
        if isinstance(logp, tuple):
            raise TypeError("linear_logprob gave entropies that were not asked for")
        return logp
