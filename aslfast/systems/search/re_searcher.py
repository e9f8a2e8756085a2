"""RE-Searcher (arXiv 2509.26048; no code found): the policy states a goal with each query, and reflects on whether the
result reaches it. A fixed judge says the same of each, and the share on which they agree is rewarded.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.core import Question, StopReason, Task, Trajectory
from aslfast.phase import OwnPhase, Play, Played, RewardOf, TaskContext
from aslfast.prompts.parsing import without_thinking
from aslfast.prompts.tool_calls import NO_LIMIT, parse_calls
from aslfast.rewards import exact_match

FORM = 0.2  # ours, of arXiv 2505.15117: the paper's table could not be read
_REFLECT = re.compile(r"<reflect>\s*(true|false)\s*</reflect>", re.IGNORECASE)


def outcome(right: bool, form: bool) -> float:
    """Return the answer's reward by its form: 1 right and in form, 0.8 right, 0.2 in form, else 0."""
    return (1.0 if form else 1.0 - FORM) if right else (FORM if form else 0.0)


def reflection(reflected: Sequence[bool | None], judged: Sequence[bool]) -> float:
    """Return the mean over searches of [the reflection is right], 0 without a search; one left out (None) is wrong."""
    right = [said == truth for said, truth in zip(reflected, judged, strict=True)]
    return sum(right) / len(right) if right else 0.0


@dataclass(frozen=True)
class SearchStep:
    """A search: its goal (empty: none was stated), what it found, and what the policy says of that (None: nothing)."""

    goal: str
    found: str
    reached: bool | None


def steps(act: Trajectory) -> list[SearchStep]:
    """Return the searches of an act that were followed by an observation and another turn.

    The goal stands in the call, as the argument `goal`; the reflection in the turn after the observation.
    """
    each = zip(act.turns, act.turns[1:], act.turns[2:], strict=False)
    found = [three for three in each if [turn.kind for turn in three] == ["sampled", "tool", "sampled"]]
    return [SearchStep(_goal(said.said), seen.text, _reflection(after.said)) for said, seen, after in found]


def _goal(said: str) -> str:
    calls = parse_calls(without_thinking(said), NO_LIMIT) or ()
    return next((str(call.arguments["goal"]) for call in calls if "goal" in call.arguments), "")


def _reflection(said: str) -> bool | None:
    found = _REFLECT.findall(without_thinking(said))
    return found[0].lower() == "true" if len(found) == 1 else None


@dataclass(frozen=True)
class ReSearcherOptions:
    """weight: w, of the reflections."""

    weight: float


class ReSearcher(OwnPhase):
    """The policy searches for goals and reflects in its own turns; the role `judge` judges each result by its goal.

    We differ: the judge says whether the result reaches the goal without
    seeing the reflection, and the reflection is right if it says the same.
    """

    roles: Sequence[str] = ("policy", "judge")

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        """Return the labelled questions."""
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Played:
        """Return the policy's answer, and the judge's acts, one a search."""
        act = await play.act("policy", question=task.question)
        asked = (play.act("judge", goal=one.goal or task.question, result=one.found) for one in steps(act))
        return act, *await asyncio.gather(*asked)

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return the policy's rewards; the judge earns none."""
        return [[self._reward(*acts), *(None for _ in acts[1:])] for acts in plays]

    @property
    def _weight(self) -> float:
        return self.options_as(ReSearcherOptions).weight

    def _reward(self, act: Trajectory, *judged: Trajectory) -> dict[str, float]:
        made = steps(act)
        form = act.stop is StopReason.FINISHED and all(one.goal and one.reached is not None for one in made)
        reached = [verdict.output == "correct" for verdict in judged]
        return {
            "answer": outcome(exact_match(act.output, act.task.references), form),
            "reflection": self._weight * reflection([one.reached for one in made], reached),
        }


class ReSearcherByActs(ReSearcher):
    """The same for a model that cannot reflect in its turn: the role `grm`, on the policy's adapter, reflects on the
    answer, and the judge judges it too. Both learn from the sum.
    """

    roles = ("policy", "grm", "judge")

    async def play(self, play: Play, task: Task) -> Played:
        """Return the policy's answer, its reflection, and what the judge says of the answer."""
        act = await play.act("policy", question=task.question)
        said = act.output or "nothing"
        read = (play.act(role, question=task.question, answer=said) for role in ("grm", "judge"))
        return act, *await asyncio.gather(*read)

    def _reward(self, act: Trajectory, *judged: Trajectory) -> dict[str, float]:
        said, truth = judged
        reached = {"correct": True, "wrong": False}.get(said.output or "")
        form = act.stop is StopReason.FINISHED
        return {
            "answer": outcome(exact_match(act.output, act.task.references), form),
            "reflection": self._weight * reflection([reached], [truth.output == "correct"]),
        }

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        """Return the sum for answer and reflection: they are parts of one."""
        earned = [self._reward(*acts) for acts in plays]
        return [[reward, reward, None] for reward in earned]
