"""The ways to take a learner's step that are compared, and what each spends its time on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor

from aslfast.clock import PartClock
from aslfast.core import Trajectory
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.activation_checkpointing import checkpoint_activations
from bench.learner.padded_step import PaddedStep
from bench.learner.step_parts import LOSS_PART, STEP_PARTS, timed_methods
from bench.shared.device_time import now_on

ROLE = "policy"


@dataclass(frozen=True)
class StepData:
    """What one step learns from."""

    trajectories: list[Trajectory]
    advantages: list[float]

    @classmethod
    def alternating(cls, trajectories: list[Trajectory]) -> StepData:
        """Return the trajectories with advantages -1 and 1 in turn."""
        return cls(trajectories, [1.0 if i % 2 else -1.0 for i in range(len(trajectories))])

    @property
    def loss_tokens(self) -> int:
        """How many tokens have a loss: those that were sampled."""
        return sum(t.n_sampled for t in self.trajectories)


class Side:
    """One way to take the step. The learner has the optimizer; `padded`, if given, makes the gradient in its place."""

    def __init__(self, learner: Learner, padded: PaddedStep | None = None) -> None:
        self.learner, self.padded = learner, padded

    def step(self, data: StepData) -> None:
        """Take one optimizer step."""
        self._backward(data)
        self._update()

    def gradient(self, data: StepData) -> Tensor:
        """Return the gradient of a step, flat; no weight moves."""
        self._backward(data)
        gradients = [p.grad for p in lora.parameters_of(self.learner.model, ROLE) if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.learner._clear(ROLE)
        return flat

    def part_seconds(self, data: StepData, device: str) -> dict[str, float]:
        """Return the seconds of one step by part. A GPU is waited for at each, so their sum is no step's time."""
        clock = PartClock(now_on(device))
        with ExitStack() as patches:
            for owner, name, part in self._timed_methods():
                patches.enter_context(patch.object(owner, name, clock.timed(part)(getattr(owner, name))))
            with clock.part(LOSS_PART):
                self._backward(data)
            with clock.part("optimizer"):
                self._update()
        return {part: clock.seconds[part].on(device) for part in STEP_PARTS}

    def _timed_methods(self) -> Iterator[tuple[object, str, str]]:
        if self.padded is None:
            yield from timed_methods(self.learner)
        else:
            yield self.padded, "hidden", "forward"
            yield self.padded, "logprobs", "head"
            yield torch.Tensor, "backward", "backward"

    def _backward(self, data: StepData) -> None:
        learner, loss_tokens = self.learner, float(data.loss_tokens)
        learner.model.set_adapter(ROLE)
        if self.padded is None:
            learner.accumulate(data.trajectories, data.advantages, loss_tokens, with_kl=False)
        else:
            with checkpoint_activations(learner.packed_model.base, learner.config.activation_checkpointing):
                self.padded.accumulate(data.trajectories, data.advantages, loss_tokens)

    def _update(self) -> None:
        self.learner._clip(ROLE)
        self.learner._update(ROLE)
