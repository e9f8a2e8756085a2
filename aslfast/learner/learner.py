"""The learner: micro-batches, backward, clip, AdamW. A step moves one role's adapter, by finite gradients only."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import torch
from peft import PeftModel
from torch import Tensor

from aslfast.config.schema import LearnerConfig, LossConfig, RunConfig
from aslfast.core import Trajectory
from aslfast.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from aslfast.errors import UserError
from aslfast.learner.advantages.signal import Signal, as_signals
from aslfast.learner.batch import Batch, idle_batch, loss_positions, micro_batches
from aslfast.learner.loss import LossInputs, loss_of, normalizer_of
from aslfast.learner.packed_model import PackedModel
from aslfast.learner.step_metrics import StepSums, UpdateStats
from aslfast.models import lora
from aslfast.models.output_head import logits_not_finite
from aslfast.speed import step_flops


class Learner:
    """The optimizers of all roles over one PEFT model. temperature: of the sampler; UserError where it is 0."""

    def __init__(
        self, model: PeftModel, config: LearnerConfig, loss: LossConfig, temperature: float, roles: Sequence[str],
        ranks: ProcessGroup = SINGLE_PROCESS,
    ) -> None:  # fmt: skip
        if temperature <= 0:
            raise UserError("sampler.temperature is 0: greedy rollouts teach nothing; set it above 0, for example 1.0")
        self.packed_model = PackedModel(model, config, temperature)
        self.model, self.config, self.loss, self.ranks = model, config, loss, ranks
        self.temperature = temperature
        self._common_loss, self._common_temperature = loss, temperature
        self._losses: Mapping[str, LossConfig] = {}  # by adapter, where it has one of its own
        self._temperatures: Mapping[str, float] = {}  # by role, where it samples at one of its own
        options = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "betas": (0.9, 0.95)}
        self.optimizers = {role: torch.optim.AdamW(lora.parameters_of(model, role), **options) for role in roles}
        self.version = dict.fromkeys(roles, 0)  # optimizer steps so far: the adapter's version
        self.skipped_steps = 0  # so far, of all roles
        self.flops = 0.0  # of all steps so far, on all ranks
        self._skipped_in_row = 0

    @property
    def attention(self) -> str:
        """The name of the attention backend."""
        return self.packed_model.attention

    def settle(self, run: RunConfig) -> None:
        """Let later steps have the rate, decay and clip of this configuration, their adapter's own loss in it, and each
        trajectory its role's own temperature. What else a learner reads is that of its start."""
        self.config = run.learner
        self._losses = {name: run.loss_of(name) for name in run.all_roles}
        self._temperatures = {name: run.temperature_of(name) for name in run.all_roles}
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group |= {"lr": run.learner.learning_rate, "weight_decay": run.learner.weight_decay}

    def copy(self, source: str, target: str) -> None:
        """Let the adapter `target` be what `source` is, with a fresh optimizer, as a version that it never was."""
        own = lora.parameters_of(self.model, target)
        with torch.no_grad():
            for parameter, other in zip(own, lora.parameters_of(self.model, source), strict=True):
                parameter.copy_(other)
        self.optimizers[target].state.clear()
        self.version[target] = max(self.version[source], self.version[target]) + 1

    def _activate(self, role: str) -> None:
        self.model.set_adapter(role)
        self.loss = self._losses.get(role, self._common_loss)

    def _set_temperature(self, temperature: float) -> None:
        if temperature != self.temperature:
            self.temperature = temperature
            self.packed_model.set_temperature(temperature)

    def step(self, role: str, trajectories: Sequence[Trajectory], advantages: Sequence[float | Signal]) -> UpdateStats:
        """Take one optimizer step on these trajectories and those of the other ranks; one at least sampled a token.

        advantages: one a trajectory, or a Signal where the loss needs more than that.
        Each rank passes its own part, which may be empty. The normalizer of the loss is counted over all ranks before
        the backward passes, gradients are summed after them: N ranks take the step of one, up to the order of
        additions. If the loss or the gradient is not finite no weight moves, and the stats name the tasks that caused
        it. Raise UserError after `max_skipped_steps` such steps in a row, and at once where the model's own log-probs
        are not finite.
        """
        self._activate(role)
        loss_tokens, sequences = self._count_loss_tokens(trajectories)
        normalizer = normalizer_of(self.loss, loss_tokens, sequences)
        if self.loss.sft_coef:
            advantages = self._with_sft_weights(trajectories, as_signals(advantages), normalizer)
        sums = self.accumulate(trajectories, advantages, normalizer, self._kl_is_due(role))
        self._all_reduce(role, sums)
        self.flops += step_flops(self.model, sums.forward_tokens, loss_tokens, sums.pairs, role)
        grad_norm = self._clip(role)
        if math.isfinite(sums.loss) and math.isfinite(grad_norm):
            self._update(role)
            return sums.stats(loss_tokens, grad_norm, self.skipped_steps)
        self._clear(role)
        if not sums.logprobs_finite:
            raise logits_not_finite(self.packed_model.base)
        culprits = self._find_not_finite(role, trajectories, advantages, normalizer)
        self._count_skipped(role, culprits)
        return sums.stats(loss_tokens, None, self.skipped_steps, culprits)

    def _count_loss_tokens(self, trajectories: Sequence[Trajectory]) -> tuple[int, int]:
        """Return the number of loss tokens, and of trajectories that have any, over all ranks."""
        own = [len(loss_positions(t)) for t in trajectories]
        counts = torch.tensor([sum(own), sum(n > 0 for n in own)])
        self.ranks.all_reduce_sum([counts])
        loss_tokens, sequences = counts.tolist()
        return loss_tokens, sequences

    def _with_sft_weights(
        self, trajectories: Sequence[Trajectory], signals: Sequence[Signal], normalizer: float
    ) -> list[Signal]:
        """Return the signals with the weight of the added SFT term, whose mean is over successes on all ranks alone."""
        if any(signal.success is None for signal in signals):
            raise ValueError("loss.sft_coef: a trajectory came without its success; pass Signals, not numbers")
        successes = [t for t, signal in zip(trajectories, signals, strict=True) if signal.success]
        own = normalizer_of(self.loss, *self._count_loss_tokens(successes))
        weight = self.loss.sft_coef * normalizer / own if own else 0.0
        return [replace(signal, sft_weight=weight if signal.success else 0.0) for signal in signals]

    def _all_reduce(self, role: str, sums: StepSums) -> None:
        """Sum gradients and metrics over all ranks; a rank without a loss token adds zeros."""
        parameters = lora.parameters_of(self.model, role)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.ranks.all_reduce_sum([parameter.grad for parameter in parameters if parameter.grad is not None])
        sums.all_reduce(self.ranks)

    def accumulate(
        self, trajectories: Sequence[Trajectory], advantages: Sequence[float | Signal], normalizer: float, with_kl: bool
    ) -> StepSums:
        """Add the gradient of these trajectories to the active adapter's; return the sums of their metrics.

        normalizer: that of the whole step, so that its parts, in micro-batches or on several ranks, add up to it.
        """
        sums = StepSums(self.model.device)
        batches = list(self._batches(trajectories, advantages))
        n_idle = self._max_over_ranks(len(batches)) - len(batches)
        with self.packed_model.training_mode():
            for temperature, batch in batches:
                self._set_temperature(temperature)
                inputs = self._inputs(batch.to(self.model.device), normalizer, with_kl)
                loss, metrics = loss_of(inputs, self.loss)
                loss.backward()
                sums.add(loss, metrics, inputs, batch)
            for _ in range(n_idle):
                inputs = self._inputs(idle_batch().to(self.model.device), normalizer, with_kl)
                (0.0 * inputs.logp_L.sum()).backward()
        return sums

    def _batches(
        self, trajectories: Sequence[Trajectory], advantages: Sequence[float | Signal]
    ) -> Iterator[tuple[float, Batch]]:
        """Yield micro-batches with the temperature that all of their trajectories were sampled at.

        Roles that share an adapter may differ in it, and the log-probs of a batch are scaled by one.
        """
        config, own = self.config, defaultdict(list)
        for trajectory, advantage in zip(trajectories, advantages, strict=True):
            temperature = self._temperatures.get(trajectory.task.role, self._common_temperature)
            own[temperature].append((trajectory, advantage))
        for temperature, pairs in own.items():
            parts = [t for t, _ in pairs], [a for _, a in pairs]
            for batch in micro_batches(*parts, config.micro_batch_tokens, config.share_prefix):
                yield temperature, batch

    def _max_over_ranks(self, count: int) -> int:
        """Return the maximum of a number of passes over all ranks if they split the base, else the number itself.

        Such ranks gather the layers' weights from each other in every pass, so all must make equally many: a rank with
        fewer batches than another adds idle ones.
        """
        maximum = torch.tensor([count])
        if self.ranks.model_parallel_size > 1:
            self.ranks.all_reduce_max([maximum])
        return int(maximum)

    def _kl_is_due(self, role: str) -> bool:
        """Return whether the loss, or this step's metrics, need log-probs under the base: an extra forward pass."""
        every = self.config.kl_every
        return self.loss.kl_coef > 0 or (every > 0 and (self.version[role] + 1) % every == 0)

    def _inputs(self, batch: Batch, normalizer: float, with_kl: bool) -> LossInputs:
        model, attend = self.packed_model, self.packed_model.attend(batch)
        base_logp_L = model.base_logprobs(batch, attend) if with_kl else None
        logp_L = model.logprobs(batch, attend)
        return LossInputs(
            logp_L, batch.sampler_logp_L, base_logp_L, batch.sequence_L, batch.advantage_S, normalizer,
            batch.advantage_L, batch.kl_weight_L, batch.success_S, batch.rate_S, batch.sft_weight_S,
        )  # fmt: skip

    def logprobs(self, batch: Batch) -> Tensor:
        """Return the log-probs of the loss tokens [L], float32, scaled by the temperature, with the active adapter."""
        with self.packed_model.training_mode():
            return self.packed_model.logprobs(batch, self.packed_model.attend(batch))

    def _clip(self, role: str) -> float:
        """Clip the gradient to the norm `grad_clip`; return its norm before."""
        return float(torch.nn.utils.clip_grad_norm_(lora.parameters_of(self.model, role), self.config.grad_clip))

    def _update(self, role: str) -> None:
        self.optimizers[role].step()
        self._clear(role)
        self.version[role] += 1
        self._skipped_in_row = 0

    def _clear(self, role: str) -> None:
        self.optimizers[role].zero_grad(set_to_none=True)

    def _find_not_finite(
        self, role: str, trajectories: Sequence[Trajectory], advantages: Sequence[float | Signal], normalizer: float
    ) -> tuple[str, ...]:
        """Return the tasks of the trajectories, on any rank, whose loss or gradient alone is not finite."""
        found, own = [], list(zip(trajectories, advantages, strict=True))
        for i in range(self._max_over_ranks(len(own))):
            one = [t for t, _ in own[i : i + 1]], [a for _, a in own[i : i + 1]]
            loss = self.accumulate(*one, normalizer, with_kl=self.loss.kl_coef > 0).loss
            if one[0] and not (math.isfinite(loss) and math.isfinite(self._clip(role))):
                found.append(one[0][0].task.id)
            self._clear(role)
        by_rank = [
            msgspec.json.decode(data, type=list[str]) for data in self.ranks.all_gather(msgspec.json.encode(found))
        ]
        return tuple(dict.fromkeys(task for tasks in by_rank for task in tasks))

    def _count_skipped(self, role: str, culprits: Sequence[str]) -> None:
        """Count a skipped step. Raise UserError after `max_skipped_steps` in a row."""
        self.skipped_steps += 1
        self._skipped_in_row += 1
        if self._skipped_in_row >= self.config.max_skipped_steps:
            tasks = ", ".join(culprits[:5]) + (", ..." if len(culprits) > 5 else "")
            which = f"from {tasks}" if culprits else "from no single trajectory"
            raise UserError(
                f"{role}: no finite gradient in {self._skipped_in_row} steps in a row (learner.max_skipped_steps), the "
                f"last {which}; lower learner.learning_rate or check the sampled trajectories"
            )
