"""What the roles learn in and are evaluated on: the interface that the lab, files and your own environment share.

The recipe's `environment = "my_env:Env"` names a subclass of `Environment`. `tasks` and `eval_tasks` are all that it
must have. docs/recipes/environments.md shows one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from aslfast.config import RunConfig
from aslfast.core import Group, Question, Task, Trajectory
from aslfast.retrieval.retriever import AnyIndex

__all__ = ["Environment", "Episode", "Group", "Question", "RunConfig", "Task", "Trajectory"]


class Episode(Protocol):
    """One play of a task. Every trajectory has its own, and no other plays it."""

    observation: str  # what the model reads first, after the task's text; may be empty

    def step(self, action: str) -> tuple[str | None, float]:
        """Return what the model reads next, None once the episode is over, and the reward of this action.

        action: what the model said outside its thinking, or what stands in its <answer> tag: any text, also none.
        """
        ...


class Environment(ABC):
    """A subclass overrides what it has. `config` is the run's whole configuration.

    Only `update` may change what `state` returns, so that no sample depends on the order of the episodes.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    @abstractmethod
    def tasks(self) -> Sequence[Question | str]:
        """Return what to train on, at the start of each policy phase: questions, answered ones or not, or texts."""

    @abstractmethod
    def eval_tasks(self) -> Sequence[Question | str]:
        """Return what to evaluate on, the same in every round; the first data.eval_count are used."""

    def topics(self) -> Sequence[str]:
        """Return topics for the generator to ask about; none where no question is generated."""
        return ()

    def index(self, held_out: bool) -> AnyIndex | None:
        """Return what search finds, in training or in the evaluation; None: data.index or data.eval_index, if set."""
        return None

    def oracle(self, question: str, held_out: bool) -> str | Sequence[str] | None:
        """Return the true answer to any question, or all its right spellings; None where there is none.

        For the monitor: no reward sees it.
        """
        return None

    def reset(self, task: Task, seed: int) -> Episode | None:
        """Return a new episode of a task, whose chance follows from `seed` alone; None: the policy answers once.

        All attempts of a group have the same seed, and so play the same episode.
        """
        return None

    def reward(self, trajectory: Trajectory) -> float:
        """Return a trajectory's reward, for policy.reward = "environment": the sum of its episode's rewards."""
        return trajectory.environment_reward or 0.0

    def update(self, groups: Sequence[Group]) -> None:  # noqa: B027
        """Learn from a policy step's trajectories and rewards, such as what to ask next; the same on every rank."""

    def state(self) -> object:
        """Return as JSON data what `update` changes: it is committed with every step."""
        return None

    def restore(self, state: object) -> None:  # noqa: B027
        """Go on from what `state` returned, after JSON: lists for tuples, texts as keys."""

    def gives(self, method: str) -> bool:
        """Return whether a subclass overrides a method."""
        return getattr(type(self), method) is not getattr(Environment, method)
