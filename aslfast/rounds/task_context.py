"""What the tasks of a phase are made from: configuration, state and data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.checkpoint.state import TrainState
from aslfast.config import RunConfig
from aslfast.core import Question
from aslfast.metrics.health import Oracle
from aslfast.rollout.environments.own_environment import OwnEnvironment
from aslfast.rollout.multi_turn import stable_seed


@dataclass(frozen=True)
class TrainingData:
    """What the roles learn from. The oracle, of the world to learn in, is the monitor's: no reward sees it."""

    topics: Sequence[str]
    labelled: Sequence[Question] = ()  # real questions, where a recipe learns from any
    oracle: Oracle | None = None
    environment: OwnEnvironment | None = None  # one's own; its tasks may change from phase to phase

    @property
    def real_questions(self) -> Sequence[Question]:
        """The labelled questions, or the tasks of an environment of one's own as they are now."""
        return self.environment.tasks() if self.environment else self.labelled


@dataclass(frozen=True)
class TaskContext:
    """What the tasks of a phase are made from."""

    config: RunConfig
    state: TrainState
    data: TrainingData

    def rng(self, phase: str) -> random.Random:
        """Return a source of chance that this round's phase of that name has to itself."""
        return random.Random(stable_seed(self.config.seed, self.state.round, phase))
