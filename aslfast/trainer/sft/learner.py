"""Cross-entropy steps on one adapter, through the learner's packing, prefix sharing and fused log-probs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aslfast.errors import UserError
from aslfast.learner.batch import Batch, micro_batches
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.trainer.sft.rows import SftRow

ARGMAX_ROWS = 256  # tokens whose logits are in memory at once


@dataclass(frozen=True, slots=True)
class SftStats:
    """Of one step, or of one evaluation. loss: nats a token, weighted; accuracy: of the likeliest token."""

    loss: float
    loss_tokens: int
    grad_norm: float = 0.0
    accuracy: float = 0.0


class SupervisedLearner:
    """Trains one role's adapter of a learner on token streams: loss = - sum w_t log p(t) / sum w_t over a batch."""

    def __init__(self, learner: Learner, role: str, remedy: str = "lower --lr, or use --dtype float32") -> None:
        self.learner, self.role, self.remedy = learner, role, remedy  # remedy: against gradients that are not finite
        learner.model.set_adapter(role)

    @property
    def steps_done(self) -> int:
        """Steps so far: the adapter's version."""
        return self.learner.version[self.role]

    def step(self, rows: Sequence[SftRow], rate: float) -> SftStats:
        """Take one AdamW step at a learning rate. Raise UserError, and move no weight, without a finite gradient."""
        optimizer, parameters = self.learner.optimizers[self.role], lora.parameters_of(self.learner.model, self.role)
        loss = self.accumulate(rows)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.learner.config.grad_clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            optimizer.zero_grad(set_to_none=True)
            names = ", ".join(row.trajectory.task.id for row in rows[:3])
            place = f"step {self.steps_done + 1}, on {names}{', ...' if len(rows) > 3 else ''}"
            raise UserError(f"{place}: no finite gradient; {self.remedy}")
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.learner.version[self.role] += 1
        return SftStats(loss, _loss_tokens(rows), norm)

    def step_line(self, rows: Sequence[SftRow], rate: float) -> dict[str, float]:
        """Take a step; return its line of the metrics. Raise UserError."""
        started = time.perf_counter()
        stats = self.step(rows, rate)
        return {
            "step": self.steps_done, "loss": stats.loss, "lr": rate, "grad_norm": stats.grad_norm,
            "loss_tokens": stats.loss_tokens, "tokens": sum(len(row.trajectory.token_ids) for row in rows),
            "seconds": time.perf_counter() - started,
        }  # fmt: skip

    def accumulate(self, rows: Sequence[SftRow]) -> float:
        """Add the gradient of the rows' loss to the adapter's; return the loss."""
        total, model = 0.0, self.learner.packed_model
        with model.training_mode():
            for batch in self._batches(rows):
                loss = -_weighted(batch, model.logprobs(batch, model.attend(batch))) / _total_weight(rows)
                loss.backward()
                total += float(loss.detach())
        return total

    def evaluate(self, rows: Sequence[SftRow]) -> SftStats:
        """Return the loss on rows and the share of their tokens that are the likeliest; no gradient."""
        loss, right, model = 0.0, 0, self.learner.packed_model
        with torch.no_grad(), model.training_mode():
            for batch in self._batches(rows):
                hidden_LD = model.hidden(batch, model.attend(batch))[batch.source_L]
                logp_L = model.target_logprobs(hidden_LD, batch.target_L)
                loss -= float(_weighted(batch, logp_L)) / _total_weight(rows)
                right += self._likeliest(hidden_LD, batch.target_L)
        return SftStats(loss, _loss_tokens(rows), accuracy=right / _loss_tokens(rows))

    def _batches(self, rows: Sequence[SftRow]) -> Iterator[Batch]:
        """Yield the packed batches; a row's weight stands where a trajectory's advantage does."""
        config, device = self.learner.config, self.learner.model.device
        trajectories, weights = [row.trajectory for row in rows], [row.weight for row in rows]
        for batch in micro_batches(trajectories, weights, config.micro_batch_tokens, config.share_prefix):
            yield batch.to(device)

    def _likeliest(self, hidden_LD: Tensor, target_L: Tensor) -> int:
        """Return how many targets have the largest logit: scales and caps of logits keep their order."""
        head = self.learner.packed_model.base.get_output_embeddings()
        pairs = zip(hidden_LD.split(ARGMAX_ROWS), target_L.split(ARGMAX_ROWS), strict=True)
        return sum(int((head(hidden).argmax(-1) == target).sum()) for hidden, target in pairs)


def _weighted(batch: Batch, logp_L: Tensor) -> Tensor:
    """Return the sum of the log-probs, each with the weight of its row."""
    return (batch.advantage_S[batch.sequence_L] * logp_L).sum()


def _total_weight(rows: Sequence[SftRow]) -> float:
    return sum(row.weight * row.loss_tokens for row in rows)


def _loss_tokens(rows: Sequence[SftRow]) -> int:
    return sum(row.loss_tokens for row in rows)
