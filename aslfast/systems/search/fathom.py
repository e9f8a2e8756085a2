"""Fathom-DeepResearch (arXiv 2509.24107): RAPO, a GRPO that drops solved prompts and replays successes, in two stages;
the second rewards how well the calls of a trajectory were spent. Its repository has no training code.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aslfast.core import Group, Question, StopReason, Task, Trajectory
from aslfast.phase import Control, OwnPhase, Play, Played, RunConfig, TaskContext
from aslfast.pool import Replay
from aslfast.prompts.parsing import without_thinking
from aslfast.prompts.tool_calls import NO_LIMIT, SEARCH, Call, parse_calls
from aslfast.rewards import exact_match, normalize

SOLVED = 0.9  # rate of right answers at which a prompt is dropped
SUCCESS = 0.5  # a reward above it
VERIFIED = 1  # times that a page may be read again


@dataclass(frozen=True)
class Calls:
    """Calls of a trajectory by their labels: searches, then pages that were opened."""

    unique: int = 0
    redundant: int = 0
    explored: int = 0
    verified: int = 0
    repeated: int = 0

    @property
    def waste(self) -> float:
        """rho: redundant calls of all; 0 without a call."""
        wasted, used = self.redundant + self.repeated, self.unique + self.explored + self.verified
        return wasted / (wasted + used) if wasted + used else 0.0


def first_stage(right: bool, form: bool) -> dict[str, float]:
    """Return 0.1 F + 0.9 [right] (2509.24107, stage 1)."""
    return {"format": 0.1 * form, "right": 0.9 * right}


def second_stage(right: bool, form: bool, calls: Calls) -> dict[str, float]:
    """Return the steerable step reward (2509.24107, stage 2).

    right: 0.1 F + max(1 - rho, 0.5); wrong: 0.1 F + 0.2 min(1, dS / 8) + 0.2 min(1, dQ / 16), dS the unique less the
    redundant searches, dQ the pages explored or verified less those read again for nothing.
    """
    if right:
        return {"format": 0.1 * form, "right": max(1.0 - calls.waste, 0.5)}
    searched, read = calls.unique - calls.redundant, calls.explored + calls.verified - calls.repeated
    return {"format": 0.1 * form, "search": 0.2 * min(1.0, searched / 8), "read": 0.2 * min(1.0, read / 16)}


def labelled(trajectory: Trajectory) -> Calls:
    """Return a trajectory's answered calls by label.

    A search is unique if its query and one of its passages are new; a call of another tool opens a page: the same call
    again verifies it once, and is redundant then. We differ: the paper lets GPT-4.1 label calls, by their claims.
    """
    labels: Counter[str] = Counter()
    seen, opened = set[str](), Counter[str]()
    for said, found in zip(trajectory.turns, trajectory.turns[1:], strict=False):
        if said.kind == "sampled" and found.kind == "tool":
            for call in parse_calls(without_thinking(said.said), NO_LIMIT) or ():
                labels[_label(call, set(found.passages), seen, opened)] += 1
    return Calls(**labels)


def _label(call: Call, passages: set[str], seen: set[str], opened: Counter[str]) -> str:
    if call.name == SEARCH:
        queries = {f"query {normalize(query)}" for query in call.queries}
        new = not (queries <= seen or passages <= seen)
        seen |= queries | passages
        return "unique" if new else "redundant"
    page = json.dumps([call.name, dict(call.arguments)], sort_keys=True)
    opened[page] += 1
    return "explored" if opened[page] == 1 else "verified" if opened[page] <= 1 + VERIFIED else "repeated"


@dataclass
class PromptRecord:
    """The epoch that is running, the last one of each prompt and its rate of right answers then, the prompts that are
    dropped for good, and successes."""

    epoch: int = 1
    asked: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    successes: Replay = field(default_factory=lambda: Replay(size=8192))


class FathomStageOne(OwnPhase):
    """RAPO on labelled questions: epochs without the solved ones, and a success of before where a group has none.

    Its advantages and their factor are the recipe's: advantage.rescale = "usable_groups".
    """

    roles = ("policy",)

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.state: PromptRecord = PromptRecord()

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        """Return some questions that this epoch has not asked; a new one begins where it has too few."""
        known = {normalize(question.text): question for question in context.data.real_questions}
        n = self.config.own_phase[type(self).__name__].tasks_per_step
        if len(left := self._left(known)) < n:
            self._begin_epoch()
            left = self._left(known)
        context.rng(f"step{context.state.phase_step}").shuffle(left)
        self.state.asked |= dict.fromkeys(left[:n], self.state.epoch)
        return [known[key] for key in left[:n]]

    def _left(self, known: Mapping[str, Question]) -> list[str]:
        asked, dropped = self.state.asked, set(self.state.dropped)
        return sorted(key for key in known if asked.get(key) != self.state.epoch and key not in dropped)

    def _begin_epoch(self) -> None:
        solved = {key for key, rate in self.state.rates.items() if rate >= SOLVED}
        self.state.dropped = sorted(solved | set(self.state.dropped))
        self.state.epoch += 1

    async def play(self, play: Play, task: Task) -> Played:
        """Return the policy's answer."""
        return (await play.act("policy", question=task.question),)

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[Mapping[str, float]]]:
        """Return each answer's reward, of this stage."""
        return [[self.reward(act)] for (act,) in plays]

    def reward(self, act: Trajectory) -> dict[str, float]:
        """Return the parts of an answer's reward. F: whether it came to an end in form."""
        return first_stage(exact_match(act.output, act.task.references), act.stop is StopReason.FINISHED)

    async def learn_from(self, control: Control, groups: Sequence[Group]) -> Sequence[Group]:
        """Put the latest success of its prompt in the place of a random rollout where all failed."""
        rng = random.Random(control.rollout.seed)
        taught = [self._helped(group, rng) for group in groups]
        self.state.successes.add(groups, control.state.step, lambda _, reward: reward.total > SUCCESS)
        return taught

    def _helped(self, group: Group, rng: random.Random) -> Group:
        latest = self.state.successes.of(group)[-1:]
        if not latest or not group.rewards or any(reward.total > SUCCESS for reward in group.rewards):
            return group
        played = list(zip(group.trajectories, group.rewards, strict=True))
        played[rng.randrange(len(played))] = latest[0]
        return Group.of(played)

    def after_step(self, groups: Sequence[Group]) -> None:
        """Note how often each prompt was answered right."""
        for group in groups:
            if group.rewards:
                right = sum(reward.parts.get("right", 0.0) > 0 for reward in group.rewards)
                self.state.rates[normalize(group.trajectories[0].task.question)] = right / len(group.rewards)


class FathomStageTwo(FathomStageOne):
    """The same with the steerable step reward."""

    def reward(self, act: Trajectory) -> dict[str, float]:
        """Return the parts of an answer's reward."""
        right = exact_match(act.output, act.task.references)
        return second_stage(right, act.stop is StopReason.FINISHED, labelled(act))
