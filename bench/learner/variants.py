"""The ways to take a learner's step that are compared, and what they spend their time on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aslfast.core import Trajectory
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.activation_checkpointing import checkpoint_activations
from bench.learner.padded_step import PaddedStep

ROLE = "policy"


class Clock:
    """Seconds by part of a step: on a CPU of the processor, on a GPU of the wall."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        if self.device != "cuda":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, part: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            out = run(*args, **kwargs)
            self.seconds[part] = self.seconds.get(part, 0.0) + self.now() - start
            return out

        return wrapped


class Side:
    """One way to take the step. `learner` holds the optimizer; `padded`, where given, makes the gradient instead."""

    def __init__(self, learner: Learner, padded: PaddedStep | None = None) -> None:
        self.learner, self.padded = learner, padded

    def gradient(self, trajectories: list[Trajectory], advantages: list[float]) -> None:
        live = float(sum(t.n_sampled for t in trajectories))
        self.learner.model.set_adapter(ROLE)
        if self.padded is None:
            self.learner.accumulate(trajectories, advantages, live, with_kl=False)
        else:
            with checkpoint_activations(self.learner.packed_model.base, self.learner.config.activation_checkpointing):
                self.padded.accumulate(trajectories, advantages, live)

    def update(self) -> None:
        self.learner._clip(ROLE)
        self.learner._update(ROLE)

    def step(self, trajectories: list[Trajectory], advantages: list[float]) -> None:
        self.gradient(trajectories, advantages)
        self.update()

    def taken_gradient(self, trajectories: list[Trajectory], advantages: list[float]) -> Tensor:
        self.gradient(trajectories, advantages)
        flat = torch.cat([p.grad.flatten() for p in lora.parameters_of(self.learner.model, ROLE)])
        self.learner._clear(ROLE)
        return flat

    def parts(self, trajectories: list[Trajectory], advantages: list[float], clock: Clock) -> dict[str, float]:
        """Seconds of one step by part; the clock waits for the device at each, so their sum is no step's time."""
        model: Any = self.padded or self.learner.packed_model
        names = "hidden", "logprobs"
        backward: Any = torch.Tensor.backward
        for part, name in zip(("forward", "forward and head"), names, strict=True):
            setattr(model, name, clock.timed(part, getattr(model, name)))
        torch.Tensor.backward = clock.timed("backward", backward)
        try:
            clock.timed("gradient", self.gradient)(trajectories, advantages)
            clock.timed("optimizer", self.update)()
        finally:
            torch.Tensor.backward = backward
            for name in names:
                delattr(model, name)
        s = clock.seconds
        rest = s["gradient"] - s["forward and head"] - s["backward"]
        head = s["forward and head"] - s["forward"]
        parts = {"forward": s["forward"], "head": head, "backward": s["backward"], "optimizer": s["optimizer"]}
        return {**parts, "packing and loss": rest}
