"""SPC, Self-Play Critic: a sneaky generator spoils one step of a right solution, a critic must see it.

Source: arXiv 2504.19162 and chen-judge/SPC@e2d999d. The loss is by settings: advantages of +-1, one ratio a sequence,
and 0.15 times the likelihood of what won (`loss.sft_coef`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from aslfast.filters import Check, Filtered, filtered
from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, Task, TaskContext, Trajectory
from aslfast.prompts.templates import fill
from aslfast.rewards import exact_match, normalize

KINDS = (  # of errors that are asked for
    "take another fact of the passage", "mix up two names", "draw a conclusion that does not follow",
    "skip a condition of the question", "change a date or a number",
)  # fmt: skip


def critic_reward(verdict: str | None, spoilt: bool) -> float:
    """Return +1 if the critic sees what is there ("wrong" of a spoilt step, "correct" of a right one), else -1.

    Source: +-1 of spoilt steps. We differ: a right one is shown as well, or "wrong" would always win.
    """
    return 1.0 if verdict == ("wrong" if spoilt else "correct") else -1.0


def is_valid(right_after_it: Sequence[bool], right_before: Sequence[bool]) -> bool:
    """Return whether a spoilt step leads fewer of the solver's continuations to the answer than the right one does.

    The source has a check of this kind; how often it continues and from what difference on is not found: ours.
    """
    return sum(right_after_it) < sum(right_before)


@dataclass(frozen=True)
class SPCOptions:
    """go_on: what the solver is told to go on from a step, with {question}. step: which one is spoilt."""

    go_on: str
    step: Literal["any", "answer"] = "any"  # any turn of the solution, or the answer that it ends with
    continuations: int = 4  # from a step
    tries: int = 4  # at a right solution


@dataclass(frozen=True)
class SolutionStep:
    """A step of a right solution, and what stands before it, as texts."""

    before: str
    text: str


def step_of(play: Play, solved: Trajectory, which: Literal["any", "answer"]) -> SolutionStep:
    """Return one step of a solution: any of its turns, drawn, or the answer that it ends with."""
    turns = [i for i, turn in enumerate(solved.turns) if turn.kind == "sampled"]
    at = turns[-1] if which == "answer" else play.rng("step").choice(turns)
    before = " ".join(turn.text for turn in solved.turns[1:at])
    return SolutionStep(before, (solved.output or "") if which == "answer" else solved.turns[at].text)


class SPC(OwnPhase):
    """A play is a game about one step. In even ones the generator learns, against the critic as the round began; in odd
    ones the critic learns, against the generator as the round began."""

    roles = ("generator", "grm")
    options_kind = SPCOptions

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Played:
        check = Check("solved", lambda _, act: exact_match(act.output, task.references), "resample",
                      tries=self.options_as(SPCOptions).tries)  # fmt: skip
        solved = await filtered(play, partial(play.act, "policy", question=task.question), [check])
        if solved.failed:
            return (solved.act,)
        step = step_of(play, solved.act, self.options_as(SPCOptions).step)
        sneaky, critic = ("past_generator", "grm") if play.number % 2 else ("generator", "past_grm")
        spoilt = await self._spoilt(play, step, sneaky)
        if spoilt.output is None:
            return (spoilt.act,) if sneaky == "generator" else (solved.act,)
        seen = await self._judged(play, step, spoilt.output, critic)
        if sneaky == "generator":
            play.settle(spoilt.act, -critic_reward(seen.output, spoilt=True))
            return (spoilt.act,)
        fair = await self._judged(play, step, step.text, critic)
        play.settle(seen, critic_reward(seen.output, spoilt=True))
        play.settle(fair, critic_reward(fair.output, spoilt=False))
        return seen, fair

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return nothing: the players' are settled in the play, and the solver never learns."""
        return [[None for _ in acts] for acts in plays]

    async def _spoilt(self, play: Play, step: SolutionStep, sneaky: str) -> Filtered:
        """Return the spoilt step: none where it is the right one, or misleads nobody, which earns -1."""
        told = {"question": play.task.question, "before": step.before, "step": step.text}
        prompt = self.config.roles["generator"].prompt
        ask = partial(play.act, sneaky, prompt, kind=play.rng("kind").choice(KINDS), **told)
        checks = [
            Check(
                "another", lambda _, act: normalize(act.output or "") not in ("", normalize(step.text)), "reward", -1.0
            ),
            Check("misleads", partial(self._misleads, step), "reward", -1.0),
        ]
        return await filtered(play, ask, checks)

    async def _misleads(self, step: SolutionStep, play: Play, written: Trajectory) -> bool:
        right_after = await self._continued(play, step.before, written.output or "")
        return is_valid(right_after, await self._continued(play, step.before, step.text))

    async def _continued(self, play: Play, before: str, text: str) -> list[bool]:
        """Let the solver go on from a step; return which continuations come to the right answer."""
        options, question = self.options_as(SPCOptions), play.task.question
        asked = play.context.asked("policy", "", question=question)
        messages = [asked, f"{before} {text}".strip(), fill(options.go_on, question=question)]
        ended = await asyncio.gather(*(play.talk("policy", messages) for _ in range(options.continuations)))
        return [exact_match(act.output, play.task.references) for act in ended]

    async def _judged(self, play: Play, step: SolutionStep, text: str, critic: str) -> Trajectory:
        prompt = self.config.roles["grm"].prompt
        return await play.act(critic, prompt, question=play.task.question, before=step.before, step=text)
