"""What a phase of one's own keeps from step to step: a pool of tasks, and trajectories to learn from again.

Both are states of a phase (`OwnPhase.state`), or fields of one; see docs/recipes/phases.md. They give the same for the
same content and source of chance, whatever the order in which it came.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from aslfast.core import Group, Question, Reward, Trajectory
from aslfast.rewards import normalize


@dataclass(frozen=True)
class PoolItem:
    """A question in a pool. drawn: how often it was."""

    question: Question
    priority: float = 1.0
    drawn: int = 0


@dataclass
class Pool:
    """Questions by key, drawn in proportion to their priorities: eva (arXiv 2411.00062), ExIt (2509.04575)."""

    items: dict[str, PoolItem] = field(default_factory=dict)

    def add(self, question: Question, priority: float = 1.0, key: str = "") -> None:
        """Add a question; one that is there under the same key, by default its normalised text, gets the priority."""
        name = key or normalize(question.text)
        known = self.items.get(name)
        self.items[name] = replace(known, priority=priority) if known else PoolItem(question, priority)

    def draw(self, n: int, rng: random.Random, sharpness: float | None = None) -> list[Question]:
        """Return up to `n` different questions, in proportion to priority, or to exp(sharpness x priority).

        None of a priority of 0 or less, unless there is a sharpness. Weighted sampling without replacement (Efraimidis
        and Spirakis 2006): the largest of log-weight plus Gumbel noise.
        """
        scores: dict[str, float] = {}
        for key, item in sorted(self.items.items()):
            noise = -math.log(-math.log(max(rng.random(), 1e-300)))
            if sharpness is not None:
                scores[key] = sharpness * item.priority + noise
            elif item.priority > 0:
                scores[key] = math.log(item.priority) + noise
        chosen = sorted(scores, key=lambda key: (-scores[key], key))[:n]
        for key in chosen:
            self.items[key] = replace(self.items[key], drawn=self.items[key].drawn + 1)
        return [self.items[key].question for key in chosen]

    def prune(self, keep: Callable[[PoolItem], bool]) -> None:
        """Take out all but those to keep."""
        self.items = {key: item for key, item in self.items.items() if keep(item)}

    def reset(self) -> None:
        """Take out all."""
        self.items = {}


@dataclass(frozen=True)
class Kept:
    """A trajectory with the log-probs that it was sampled with, its reward, and the step that played it."""

    trajectory: Trajectory
    reward: Reward
    step: int


@dataclass
class Replay:
    """Trajectories to learn from again, by role and question. The loss corrects for the policy that played them.

    size: the most trajectories, the oldest go first; max_age: in steps, 0 for no limit.
    """

    size: int = 1024
    max_age: int = 0
    kept: dict[str, list[Kept]] = field(default_factory=dict)

    def add(self, groups: Sequence[Group], step: int, worth: Callable[[Trajectory, Reward], bool]) -> None:
        """Add those trajectories of a step that are worth it; forget what is too old or too much."""
        for group in groups:
            for trajectory, reward in zip(group.trajectories, group.rewards, strict=True):
                if worth(trajectory, reward):
                    key = _key(trajectory)
                    self.kept[key] = [*self.kept.get(key, []), Kept(trajectory, reward, step)]
        self._forget(step)

    def of(self, group: Group) -> list[tuple[Trajectory, Reward]]:
        """Return what is kept of a group's role and question, the newest last."""
        known = (group.trajectories or group.failed)[0]
        return [(item.trajectory, item.reward) for item in self.kept.get(_key(known), [])]

    def draw(self, n: int, rng: random.Random) -> list[tuple[Trajectory, Reward]]:
        """Return up to `n` different ones by chance, of any role and question."""
        items = [item for _, items in sorted(self.kept.items()) for item in items]
        return [(item.trajectory, item.reward) for item in rng.sample(items, min(n, len(items)))]

    def _forget(self, step: int) -> None:
        """Keep the newest `size` of those that are young enough."""
        every = [(item.step, key, i) for key, items in self.kept.items() for i, item in enumerate(items)]
        young = sorted(one for one in every if not self.max_age or step - one[0] <= self.max_age)
        stay = set(young[max(0, len(young) - self.size) :])
        left = {
            key: [item for i, item in enumerate(items) if (item.step, key, i) in stay]
            for key, items in self.kept.items()
        }
        self.kept = {key: items for key, items in left.items() if items}


def _key(trajectory: Trajectory) -> str:
    return f"{trajectory.task.role}/{normalize(trajectory.task.question)}"
