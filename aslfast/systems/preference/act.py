"""ACT, Agentic Critical Training (arXiv 2603.08706; code not found): which of two actions is the expert's?

At a step of an expert's path the policy says what it would do itself. Shown the state and both actions, in an order
that it is not told, it says which is better:

    r = [the choice is the expert's action],    in groups of choices about the same two

and then learns to act by reinforcement. We differ: the expert is the policy where it came to a right answer, so that no
demonstrations are needed; the size of a group is not public and ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from aslfast.filters import Check, filtered
from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, Task, TaskContext, Trajectory
from aslfast.rewards import exact_match, normalize
from aslfast.systems.preference.compared import choice
from aslfast.systems.selfplay.spc import SolutionStep, step_of


def choice_reward(said: str | None, expert_first: bool) -> float:
    """Return 1 where the critic chose the expert's action, else 0."""
    return float(choice(said) == float(expert_first))


@dataclass(frozen=True)
class ACTOptions:
    """go_on: what is said after the expert's steps so far, with {question}. step: which one is compared."""

    go_on: str
    step: Literal["any", "answer"] = "any"  # any turn of the path, or the answer that it ends with
    tries: int = 4  # at a right path
    choices: int = 8  # of the critic, about two actions


class ACT(OwnPhase):
    """A play is one pair of actions. The roles `novice`, which takes one turn, and `critic` are the policy."""

    roles = ("critic",)
    options_kind = ACTOptions

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Played:
        options = self.options_as(ACTOptions)
        check = Check("right", lambda _, act: exact_match(act.output, task.references), "resample", tries=options.tries)
        path = await filtered(play, partial(play.act, "policy", question=task.question), [check])
        if path.failed:
            return (path.act,)
        step = step_of(play, path.act, options.step)
        other = Check("another", lambda _, act: normalize(self._action(act)) not in ("", normalize(step.text)))
        own = await filtered(play, partial(self._own, play, step), [other])
        return (own.act,) if own.failed else await self._chosen(play, step, self._action(own.act))

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return nothing: the choices are settled in the play, and the paths are not learnt from."""
        return [[None for _ in acts] for acts in plays]

    async def _own(self, play: Play, step: SolutionStep) -> Trajectory:
        """Return what the policy does itself where the expert's step was to come."""
        question = play.task.question
        asked = play.context.asked("policy", "", question=question)
        again = play.context.asked("novice", self.options_as(ACTOptions).go_on, question=question)
        return await play.talk("novice", [asked, step.before, again] if step.before else [asked])

    async def _chosen(self, play: Play, step: SolutionStep, own: str) -> Played:
        """Return the critic's choices between the expert's action and another, in an order that is drawn."""
        expert_first = play.rng("order").random() < 0.5
        first, second = (step.text, own) if expert_first else (own, step.text)
        about = Question("pair", f"{play.task.question} 1: {first} 2: {second}")
        told = {"question": play.task.question, "before": step.before, "first": first, "second": second}
        n = self.options_as(ACTOptions).choices
        choices = await asyncio.gather(*(play.act("critic", about=about, **told) for _ in range(n)))
        for act in choices:
            play.settle(act, choice_reward(act.output, expert_first))
        return tuple(choices)

    def _action(self, act: Trajectory) -> str:
        """Return what an act did: its answer, or the text of its turn."""
        if self.options_as(ACTOptions).step == "answer":
            return act.output or ""
        return next((turn.text for turn in reversed(act.turns) if turn.kind == "sampled"), "")
