"""ExIt, exploratory iteration (arXiv 2509.04575): answers on the way become tasks of their own.

A task is a question, or a history: an answer that was given to it, up to one of its turns, with the request to improve
on it or to try something else. With q the quality of an answer, its F1 from 0 to 1:

    a question   q
    a history    max(0, (q_new - q_old) / (1 - q_old))

Every history of a task enters the buffer with the priority of what it came from, 0 where it is solved; a task's own
priority becomes the variance of its group's rewards. Histories are drawn by softmax(kappa x priority). Each advantage
is multiplied by how far its answer is from the group's: `distance`, set as advantage.rescale.

We differ: shares, buffer size and kappa are not public (they are options, with the values of a third-party
re-implementation); an embedding is the counts of an answer's words, and the distance 1 - cosine to the group's mean,
over the mean distance of the group, so that it favours but does not shrink a step.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aslfast.phase import Group, OwnPhase, Play, Played, Question, RewardOf, RunConfig, Task, TaskContext, Trajectory
from aslfast.pool import Pool
from aslfast.rewards import f1, normalize

SOLVED = 1.0


@dataclass(frozen=True)
class History:
    """An answer on the way: the first `turns` turns of a trajectory, and the quality of where it came to."""

    trajectory: Trajectory
    turns: int
    quality: float


@dataclass
class Buffer:
    """Histories to go on from, by a key that their questions in the pool have."""

    pool: Pool = field(default_factory=Pool)
    histories: dict[str, History] = field(default_factory=dict)
    added: int = 0


def gain(new: float, old: float) -> float:
    """Return the reward of an answer to a history: the part that it gains of what there was to gain."""
    return max(0.0, (new - old) / (1.0 - old)) if old < SOLVED else 0.0


def distance(
    advantages: Sequence[float], rewards: Sequence[float], groups: Sequence[int], outputs: Sequence[str]
) -> list[float]:
    """Return for each trajectory its answer's distance from its group's mean, over the group's mean distance; 1 where
    all answers of a group are alike."""
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    found = [1.0] * len(advantages)
    for own in members.values():
        apart = _distances([outputs[i] for i in own])
        mean = sum(apart) / len(apart)
        for i, value in zip(own, apart, strict=True):
            found[i] = value / mean if mean > 1e-9 else 1.0
    return found


def _distances(texts: Sequence[str]) -> list[float]:
    """Return 1 - cosine of each text's word counts to their sum; 1 for a text without a word."""
    counts: list[Counter[str]] = [Counter(normalize(text).split()) for text in texts]
    total: Counter[str] = sum(counts, Counter())
    size = math.sqrt(sum(n * n for n in total.values()))
    return [1.0 - _dot(one, total) / (math.sqrt(_dot(one, one)) * size) if one else 1.0 for one in counts]


def _dot(one: Counter[str], other: Counter[str]) -> float:
    return float(sum(n * other[word] for word, n in one.items()))


@dataclass(frozen=True)
class ExItOptions:
    """share: of a step's tasks that are histories. least: in the buffer before any is. size: of the buffer. diverge:
    share of histories that shall be answered differently. improve, another: the two requests."""

    share: float
    least: int
    kappa: float
    size: int
    diverge: float
    improve: str
    another: str


class ExIt(OwnPhase):
    """Questions and histories, answered once a play."""

    roles = ("policy",)

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.state = Buffer()

    def tasks(self, context: TaskContext) -> Sequence[Question | str]:
        """Return a step's tasks: histories, as many as are due, and questions."""
        n, step, base = (
            self.config.own_phase["ExIt"].tasks_per_step,
            context.state.phase_step,
            context.data.real_questions,
        )
        options = self.options_as(ExItOptions)
        due = math.floor(options.share * n) if len(self.state.histories) >= options.least else 0
        drawn = self.state.pool.draw(due, context.rng(f"ExIt {step}"), options.kappa)
        return [*drawn, *(base[(step * n + i) % len(base)] for i in range(n - len(drawn)))]

    async def play(self, play: Play, task: Task) -> Sequence[Trajectory]:
        history = self._history_of(task)
        if history is None:
            return (await play.act("policy", question=task.question),)
        options = self.options_as(ExItOptions)
        request = options.another if play.rng("request").random() < options.diverge else options.improve
        message = play.context.asked("policy", request, question=task.question)
        return (await play.go_on(history.trajectory, message, history.turns, learn_before=False),)

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        history = self._history_of(task)
        qualities = [f1(act.output, task.references) for (act,) in plays]
        return [[gain(quality, history.quality) if history else quality] for quality in qualities]

    def after_step(self, groups: Sequence[Group]) -> None:
        for group in groups:
            if group.trajectories:
                self._score(group)
        self._forget()

    def _score(self, group: Group) -> None:
        """Give a history the variance of its group's rewards, and let what came of it enter."""
        variance = statistics.pvariance(reward.total for reward in group.rewards)
        task = group.trajectories[0].task
        if self._history_of(task) is not None:
            self.state.pool.add(Question(_key(task), task.question, task.references), variance, _key(task))
        for trajectory in group.trajectories:
            self._enter(trajectory, variance)

    def _enter(self, trajectory: Trajectory, priority: float) -> None:
        """Add a trajectory's histories, one for each of its own new turns."""
        quality, before = f1(trajectory.output, trajectory.task.references), _turns_before(trajectory)
        for turn, said in enumerate(trajectory.turns):
            if said.kind == "sampled" and turn >= before:
                self.state.added += 1
                key = f"history{self.state.added}"
                question = Question(key, trajectory.task.question, trajectory.task.references)
                self.state.histories[key] = History(trajectory, turn + 1, quality)
                self.state.pool.add(question, 0.0 if quality >= SOLVED else priority, key)

    def _forget(self) -> None:
        """Keep the `size` histories of the highest priorities, of equal ones the newest."""
        items = self.state.pool.items
        order = sorted(items, key=lambda key: (-items[key].priority, -int(key.removeprefix("history"))))
        stay = set(order[: self.options_as(ExItOptions).size])
        self.state.pool.items = {key: item for key, item in items.items() if key in stay}
        self.state.histories = {key: one for key, one in self.state.histories.items() if key in stay}

    def _history_of(self, task: Task) -> History | None:
        """Return what a task goes on from; None of a question, whatever its id."""
        found = self.state.histories.get(_key(task))
        return found if found and found.trajectory.task.question == task.question else None


def _key(task: Task) -> str:
    """Return the key of the history that a task, or an act of it, goes on from."""
    return task.id.partition("-")[2].partition("-")[2].partition(".")[0]


def _turns_before(trajectory: Trajectory) -> int:
    """Return how many of its turns a trajectory went on from: those before its last prompt."""
    return max(i for i, turn in enumerate(trajectory.turns) if turn.kind == "prompt")
