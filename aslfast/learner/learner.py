"""The learner: micro-batches, backward, clip, AdamW. Only one role's adapter moves, and only by finite numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import torch
from aslfast_kernels import linear_logprob
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch import Tensor

from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.core import Trajectory
from aslfast.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from aslfast.errors import UserError
from aslfast.learner import attention
from aslfast.learner.batch import Batch, idle_batch, loss_positions, micro_batches
from aslfast.learner.loss import LossInputs, loss_of, normalizer_of
from aslfast.learner.step_metrics import StepSums, UpdateStats
from aslfast.models import lora
from aslfast.models.activation_checkpointing import checkpoint_activations


class Learner:
    """Holds the optimizers of all roles over one PEFT model."""

    def __init__(
        self, model: PeftModel, config: LearnerConfig, loss: LossConfig, temperature: float, roles: Sequence[str],
        ranks: ProcessGroup = SINGLE_PROCESS,
    ) -> None:  # fmt: skip
        if temperature <= 0:
            raise UserError("sampler.temperature is 0: greedy rollouts teach nothing; set it above 0, for example 1.0")
        self.base: Any = model.get_base_model()
        attention.check_architecture(self.base)
        self.attention = attention.choose(config.attention, model.device, self.base.dtype)
        self.model, self.config, self.loss, self.temperature, self.ranks = model, config, loss, temperature, ranks
        options = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "betas": (0.9, 0.95)}
        self.optimizers = {role: torch.optim.AdamW(lora.parameters_of(model, role), **options) for role in roles}
        self.version = dict.fromkeys(roles, 0)  # optimizer steps so far: the adapter's version
        self.skipped_steps = 0  # so far, of all roles
        self._skipped_in_row = 0

    def step(self, role: str, trajectories: Sequence[Trajectory], advantages: Sequence[float]) -> UpdateStats:
        """One optimizer step on these trajectories and those of the other ranks, of which at least one sampled a token.

        Each rank brings its part, which may be empty: what a sum is divided by is counted over all ranks before the
        loss, gradients are added up after it, so that N ranks take the step of one but for the order of additions.
        Where the loss or the gradient is not finite nothing moves, and the stats name the tasks that did it. Raises
        UserError after `max_skipped` such steps in a row.
        """
        self.model.set_adapter(role)
        loss_tokens, sequences = self._live(trajectories)
        normalizer = normalizer_of(self.loss, loss_tokens, sequences)
        sums = self.accumulate(trajectories, advantages, normalizer, self._kl_is_due(role))
        self._add_up(role, sums)
        grad_norm = self._clip(role)
        if math.isfinite(sums.loss) and math.isfinite(grad_norm):
            self._update(role)
            return sums.stats(loss_tokens, grad_norm, self.skipped_steps)
        self._clear(role)
        culprits = self._not_finite(role, trajectories, advantages, normalizer)
        self._count_skipped(role, culprits)
        return sums.stats(loss_tokens, None, self.skipped_steps, culprits)

    def _live(self, trajectories: Sequence[Trajectory]) -> tuple[int, int]:
        """Live tokens, and trajectories that have any, of all ranks."""
        live = [len(loss_positions(t)) for t in trajectories]
        counts = torch.tensor([sum(live), sum(n > 0 for n in live)])
        self.ranks.all_reduce_sum([counts])
        loss_tokens, sequences = counts.tolist()
        return loss_tokens, sequences

    def _add_up(self, role: str, sums: StepSums) -> None:
        """The gradient and the statistics of all ranks, on each; a rank without a live token brings zeros."""
        parameters = lora.parameters_of(self.model, role)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.ranks.all_reduce_sum([parameter.grad for parameter in parameters if parameter.grad is not None])
        sums.add_up(self.ranks)

    def accumulate(
        self, trajectories: Sequence[Trajectory], advantages: Sequence[float], normalizer: float, with_kl: bool
    ) -> StepSums:
        """Adds the gradient of these trajectories to the active adapter's. `normalizer` is that of the whole step, so
        parts of it, in micro-batches or on several ranks, add up to the whole."""
        sums, config = StepSums(self.model.device), self.config
        parts = list(micro_batches(trajectories, advantages, config.micro_batch_tokens, config.share_prefix))
        n_idle = self._most(len(parts)) - len(parts)
        with self._learning_mode():
            for part in parts:
                inputs = self._inputs(part.to(self.model.device), normalizer, with_kl)
                loss, metrics = loss_of(inputs, self.loss)
                loss.backward()
                sums.add(loss, metrics, inputs, part)
            for _ in range(n_idle):
                inputs = self._inputs(idle_batch().to(self.model.device), normalizer, with_kl)
                (0.0 * inputs.logp_L.sum()).backward()
        return sums

    def _most(self, count: int) -> int:
        """Over the ranks, where they hold a base between them: one that has fewer passes than the others makes idle
        ones, in which they gather its part of the layers."""
        most = torch.tensor([count])
        if self.ranks.model_parallel_size > 1:
            self.ranks.all_reduce_max([most])
        return int(most)

    @contextmanager
    def _learning_mode(self) -> Iterator[None]:
        """Our attention, checkpointing, and adapters' inputs left in the base's dtype; all undone after, since the
        sampler uses the same modules."""
        config = self.base.get_decoder().config
        before, config._attn_implementation = config._attn_implementation, attention.NAME
        try:
            kind = self.config.activation_checkpointing
            with checkpoint_activations(self.base, kind), disable_input_dtype_casting(self.model):
                yield
        finally:
            config._attn_implementation = before

    def _kl_is_due(self, role: str) -> bool:
        """Log-probs under the base cost a forward pass: made where the loss, or the metric of this step, reads them."""
        every = self.config.kl_every
        return self.loss.kl_coef > 0 or (every > 0 and (self.version[role] + 1) % every == 0)

    def _inputs(self, part: Batch, normalizer: float, with_kl: bool) -> LossInputs:
        attend, base_logp_L = self._attend(part), None
        if with_kl:
            with torch.no_grad(), self.model.disable_adapter():
                base_logp_L = self._logprobs(part, attend)
        logp_L = self._logprobs(part, attend)
        return LossInputs(logp_L, part.sampler_logp_L, base_logp_L, part.sequence_L, part.advantage_S, normalizer)

    def logprobs(self, part: Batch) -> Tensor:
        """Log-probs of the live targets [L], float32, temperature-scaled, with the active adapter."""
        with self._learning_mode():
            return self._logprobs(part, self._attend(part))

    def _attend(self, part: Batch) -> attention.Attend:
        return attention.BACK_ENDS[self.attention](part.segments, self.base.dtype)

    def _logprobs(self, part: Batch, attend: attention.Attend) -> Tensor:
        head = self.base.get_output_embeddings()
        logp = linear_logprob(
            self._hidden(part, attend)[part.source_L], head.weight, part.target_L, bias=getattr(head, "bias", None),
            temperature=self.temperature, softcap=getattr(self.base.config, "final_logit_softcapping", None),
        )  # fmt: skip
        assert isinstance(logp, Tensor)  # no entropies were asked for
        return logp

    def _hidden(self, part: Batch, attend: attention.Attend) -> Tensor:
        """[T, D]. A base in half precision computes in it, adapters included; their weights and gradients are float32
        all the same. Without autocast PEFT would widen, and keep for the backward, the input of every adapted layer."""
        device, dtype = part.input_T.device.type, self.base.dtype
        with torch.autocast(device, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
            out = self.base.get_decoder()(
                input_ids=part.input_T[None], position_ids=part.position_T[None], use_cache=False, attend=attend
            )
        return out.last_hidden_state[0]

    def _clip(self, role: str) -> float:
        """Scales the gradient down to `grad_clip`; its norm before."""
        return float(torch.nn.utils.clip_grad_norm_(lora.parameters_of(self.model, role), self.config.grad_clip))

    def _update(self, role: str) -> None:
        self.optimizers[role].step()
        self._clear(role)
        self.version[role] += 1
        self._skipped_in_row = 0

    def _clear(self, role: str) -> None:
        self.optimizers[role].zero_grad(set_to_none=True)

    def _not_finite(
        self, role: str, trajectories: Sequence[Trajectory], advantages: Sequence[float], normalizer: float
    ) -> tuple[str, ...]:
        """The tasks of the trajectories, on any rank, whose loss or gradient, alone, is not finite."""
        found, own = [], list(zip(trajectories, advantages, strict=True))
        for i in range(self._most(len(own))):
            one = [t for t, _ in own[i : i + 1]], [a for _, a in own[i : i + 1]]
            loss = self.accumulate(*one, normalizer, with_kl=self.loss.kl_coef > 0).loss
            if one[0] and not (math.isfinite(loss) and math.isfinite(self._clip(role))):
                found.append(one[0][0].task.id)
            self._clear(role)
        every = (
            msgspec.json.decode(told, type=list[str]) for told in self.ranks.all_gather(msgspec.json.encode(found))
        )
        return tuple(dict.fromkeys(task for told in every for task in told))

    def _count_skipped(self, role: str, culprits: Sequence[str]) -> None:
        self.skipped_steps += 1
        self._skipped_in_row += 1
        if self._skipped_in_row >= self.config.max_skipped_steps:
            tasks = ", ".join(culprits[:5]) + (", ..." if len(culprits) > 5 else "")
            which = f"from {tasks}" if culprits else "from no single trajectory"
            raise UserError(
                f"{role}: no finite gradient in {self._skipped_in_row} steps in a row (learner.max_skipped_steps), the last "
                f"{which}; lower learner.learning_rate or look at what was sampled"
            )
