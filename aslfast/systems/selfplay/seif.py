"""SEIF: an instructor adds conditions to a question, which a follower meets; its version of a round ago judges both.

Source: arXiv 2605.07465 and Rainier-rq1/SEIF@608f499. The optimisation, GRPO, is by settings; filter and judge are
roles with the adapter "policy@previous".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import msgspec

from aslfast.filters import Check, Filtered, filtered
from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, RunConfig, Task, TaskContext, Trajectory
from aslfast.prompts.templates import fill


def conditions_of(output: str | None, count: int) -> list[str] | None:
    """Return the conditions that a JSON list of `count` different texts holds, None for another output.

    A single one is the output itself.
    """
    if count == 1:
        return [output] if output else None
    try:
        found = msgspec.json.decode(output or "", type=list[str])
    except msgspec.DecodeError:
        return None
    distinct = {text.strip().lower() for text in found} - {""}
    return found if len(found) == len(distinct) == count else None


def share_met(verdicts: Sequence[str | None]) -> float:
    """Return the share of the conditions that an answer meets: the follower's reward."""
    return sum(verdict == "correct" for verdict in verdicts) / len(verdicts)


def instructor_reward(shares: Sequence[float | None]) -> float:
    """Return the mean over the follower's answers of 1 - share met, where there is no answer (None) 0.

    Source: of one answer.
    """
    return fmean(0.0 if share is None else 1 - share for share in shares)


@dataclass(frozen=True)
class SEIFOptions:
    """instruction: the question with its conditions, with {question} and {conditions}."""

    instruction: str
    conditions: int = 3  # 3 or 5 in the paper
    instructor_steps: int = 50  # of a round, in which the instructor learns; in the others the follower does
    answers: int = 5  # of the follower to an instruction, in its own steps; one in the instructor's


class SEIF(OwnPhase):
    """A play: conditions to a question, which the filter passes, and the follower's answers, which the judge checks."""

    roles = ("generator", "policy")
    options_kind = SEIFOptions

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self._following = False

    def tasks(self, context: TaskContext) -> list[Question]:
        self._following = context.state.phase_step >= self.options_as(SEIFOptions).instructor_steps
        topics = [Question(str(i), topic) for i, topic in enumerate(context.data.topics)]
        return list(context.data.real_questions) or topics

    async def play(self, play: Play, task: Task) -> Played:
        options, written = self.options_as(SEIFOptions), await self._conditions(play, task.question)
        conditions = conditions_of(written.output, options.conditions)
        if conditions is None:
            return (written.act,)
        told = (
            " ".join(conditions)
            if len(conditions) == 1
            else " ".join(f"({i}) {c}" for i, c in enumerate(conditions, 1))
        )
        asked = Question("asked", fill(options.instruction, question=task.question, conditions=told))
        tries = range(options.answers if self._following else 1)
        answers = await asyncio.gather(*(play.act("policy", about=asked) for _ in tries))
        shares = [await self._share(play, task.question, conditions, act) for act in answers]
        if not self._following:
            play.settle(written.act, instructor_reward(shares))
            return (written.act,)
        for act, share in zip(answers, shares, strict=True):
            play.settle(act, share or 0.0)
        return tuple(answers)

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return nothing: all is settled in the play."""
        return [[None for _ in acts] for acts in plays]

    async def _conditions(self, play: Play, question: str) -> Filtered:
        """Return the instructor's act: what is no list, or does not pass the filter, earns it 0 in its own steps."""
        fails, count = "drop" if self._following else "reward", self.options_as(SEIFOptions).conditions
        checks = [
            Check("a_list", lambda _, act: conditions_of(act.output, count) is not None, fails),
            Check("compatible", partial(self._compatible, question), fails),
        ]
        return await filtered(play, partial(play.act, "generator", question=question), checks)

    async def _compatible(self, question: str, play: Play, written: Trajectory) -> bool:
        conditions, answer = written.output or "", written.output_answer or ""
        said = await play.act("filter", question=question, conditions=conditions, answer=answer)
        return said.output == "correct"

    async def _share(self, play: Play, question: str, conditions: Sequence[str], act: Trajectory) -> float | None:
        """Return the share of the conditions that the judge says an answer meets; None without an answer."""
        if act.output is None:
            return None
        answer = act.output
        given = (play.act("grm", question=question, condition=each, answer=answer) for each in conditions)
        return share_met([said.output for said in await asyncio.gather(*given)])
