"""SPEAR (arXiv 2509.22601; TencentYoutuResearch/SPEAR@7e84315): a bonus for tool calls that fades, and imitation of the
policy's own good trajectories of before, whose weight rises.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aslfast.core import Group, Question, Reward, StopReason, Task, Trajectory
from aslfast.metrics.health import queries_of
from aslfast.phase import Control, OwnPhase, Play, Played, RewardOf, RunConfig, TaskContext
from aslfast.pool import Kept, Replay
from aslfast.rewards import exact_match, format_reward, normalize

OVERLONG = (StopReason.TURN_TOO_LONG, StopReason.TURN_LIMIT, StopReason.CONTEXT_FULL)


def bonus_weight(step: int, steps: int) -> float:
    """Return mu(t) = (cos(pi t / T) + 1) / 2, 0 from T on: of the tool bonus (SPEAR's code, T 100 or 200)."""
    return (math.cos(math.pi * step / steps) + 1) / 2 if step < steps else 0.0


def imitation_weight(step: int, steps: int) -> float:
    """Return (1 - cos(pi t / T)) / 2, 1 from T on: of the imitation's loss (SPEAR's code, T 200 to 300)."""
    return (1 - math.cos(math.pi * step / steps)) / 2 if step < steps else 1.0


def tool_bonus(calls: int) -> float:
    """Return min(1, 0.1 calls)."""
    return min(1.0, 0.1 * calls)


def worth_learning(act: Trajectory) -> bool:
    """Return whether an act is none of those that SPEAR drops: overlong, void, repetitive or unreadable.

    Void: neither a call nor an output; repetitive: over half of the queries were sent before; unreadable: a character
    that no text has. We differ: the code's rules are for programs; these say the same of searches.
    """
    sent = [normalize(query) for query in queries_of(act)]
    repetitive = len(sent) > 2 * len(set(sent))
    void = act.output is None and not act.tool_calls
    unreadable = any("\ufffd" in turn.text for turn in act.turns if turn.kind == "sampled")
    return not (act.stop in OVERLONG or void or repetitive or unreadable)


def imitated(kept: Sequence[Kept], median: float, weight: float) -> list[tuple[Trajectory, Reward]]:
    """Return what of a buffer is imitated, by the role `imitator`: weight x (R - median), where that is above 0.

    median: of the mean rewards of the last groups, in place of what the group's mean was then.
    """
    gains = [(item.trajectory, item.reward.total - median) for item in kept]
    return [
        (replace(act, task=replace(act.task, role="imitator")), Reward({"imitation": weight * gain}))
        for act, gain in gains
        if gain > 0
    ]


@dataclass
class Imitation:
    """Good trajectories of before, the mean rewards of the last groups, and how many groups, steps and extra batches
    there were."""

    buffer: Replay
    means: dict[str, float] = field(default_factory=dict)  # by their numbers: a commit writes the new ones alone
    groups: int = 0
    steps: int = 0
    batches: int = 0


@dataclass(frozen=True)
class SpearOptions:
    """buffer: trajectories. max_age: steps. history: means of groups."""

    bonus_steps: int
    imitation_steps: int
    buffer: int
    max_age: int
    history: int


class Spear(OwnPhase):
    """The policy answers labelled questions; when the buffer is full, it is one extra batch, and is emptied.

    The role `imitator` is the policy's adapter with advantages that are the rewards themselves.
    """

    roles = ("policy",)

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        own = self.options_as(SpearOptions)
        self.state: Imitation = Imitation(Replay(own.buffer, own.max_age))

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        """Return the labelled questions."""
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Played:
        """Return the policy's answer."""
        return (await play.act("policy", question=task.question),)

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return what each answer earns; None for one that is dropped."""
        return [[self._reward(act) if worth_learning(act) else None] for (act,) in plays]

    def _reward(self, act: Trajectory) -> dict[str, float]:
        fading = bonus_weight(self.state.steps, self.options_as(SpearOptions).bonus_steps)
        return {
            "answer": float(exact_match(act.output, act.task.references)),
            "tools": fading * tool_bonus(act.tool_calls),
            "format": self.config.format_weight * format_reward(act),
        }

    async def learn_from(self, control: Control, groups: Sequence[Group]) -> Sequence[Group]:
        """Keep what did better than its group with a tool; learn from all that is kept once the buffer is full."""
        for group in groups:
            if group.rewards:
                mean = statistics.fmean(reward.total for reward in group.rewards)
                self._remember(mean)
                self.state.buffer.add([group], control.state.step, _better_than(mean))
        kept = [item for _, items in sorted(self.state.buffer.kept.items()) for item in items]
        if len(kept) >= self.state.buffer.size:
            self._imitate(control, kept)
        return groups

    def _remember(self, mean: float) -> None:
        self.state.means[str(self.state.groups)] = mean
        self.state.means.pop(str(self.state.groups - self.options_as(SpearOptions).history), None)
        self.state.groups += 1

    def _imitate(self, control: Control, kept: Sequence[Kept]) -> None:
        weight = imitation_weight(self.state.steps, self.options_as(SpearOptions).imitation_steps)
        taught = imitated(kept, statistics.median(self.state.means.values()), weight)
        self.state.buffer.kept = {}
        if taught and weight and control.learn("policy", [Group.of(taught)]):
            self.state.batches += 1

    def after_step(self, groups: Sequence[Group]) -> None:
        """Count the step."""
        self.state.steps += 1


def _better_than(mean: float) -> Callable[[Trajectory, Reward], bool]:
    return lambda act, reward: reward.total > mean and act.tool_calls > 0
