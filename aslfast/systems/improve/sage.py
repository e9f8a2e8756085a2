"""SAGE (arXiv 2512.17102; code not found): what is learnt on one task is a skill for the next one like it.

A play is a chain of two similar questions: the policy answers the first and leaves a skill, a query with "..." for what
changes, then answers the second, which it is shown with. With m_i = 1 where answer i is right:

    r_i = m_i + bonus [the skill was used in the second and m_2 = 1]

We differ: the paper's skills are functions that it writes and calls; a skill here is used if a query of the second
answer has its words, and something else at "...". The size of the bonus is not public, and that the first answer,
which left the skill, earns it too is our reading; the second question is the one of `among` drawn that has most words
in common with the first.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aslfast.metrics.health import queries_of
from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, RunConfig, Task, TaskContext, Trajectory
from aslfast.rewards import exact_match, normalize

GAP = "..."


def uses(query: str, skill: str) -> bool:
    """Return whether a query is what a skill becomes: all its words in order, and some at each gap.

    A skill without a gap, or of gaps alone, is none.
    """
    parts = [re.escape(normalize(part)) for part in skill.split(GAP)]
    if len(parts) < 2 or not any(parts):
        return False
    pattern = r"\s*(\S.*?)\s*".join(parts)
    return re.fullmatch(pattern, normalize(query)) is not None


def skill_of(query: str, other: str) -> str:
    """Return a query as a skill: "..." for the words that another question lacks."""
    kept = set(normalize(other).split())
    words = [word if word in kept else GAP for word in normalize(query).split()]
    return " ".join(word for i, word in enumerate(words) if word != GAP or words[i - 1 : i] != [GAP])


def likeness(one: str, other: str) -> float:
    """Return the words in common over all words of two texts, from 0 to 1."""
    words, others = set(normalize(one).split()), set(normalize(other).split())
    return len(words & others) / max(1, len(words | others))


@dataclass(frozen=True)
class SAGEOptions:
    """second: the prompt of the second question, with {question} and {skill}. bonus: see the module."""

    second: str
    bonus: float = 0.5
    among: int = 1000  # questions that the second one is sought among
    written: bool = True  # the first answer comes after a skill; false: its last query is one


class SAGE(OwnPhase):
    """The role `first`, on the policy's adapter, answers and leaves a skill; the policy answers with it."""

    roles = ("first", "policy")
    options_kind = SAGEOptions

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.questions: Sequence[Question] = ()

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        self.questions = context.data.real_questions
        return self.questions

    async def play(self, play: Play, task: Task) -> Played:
        first, other = await play.act("first", question=task.question), self._like(task)
        skill = self._skill(first, other)
        prompt = self.options_as(SAGEOptions).second
        return first, await play.act("policy", prompt, about=other, skill=skill or "none yet")

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        return [self._of_chain(*acts) for acts in plays]

    def _of_chain(self, first: Trajectory, second: Trajectory) -> list[RewardOf]:
        said = first.output_answer if self.options_as(SAGEOptions).written else first.output
        answers = (said, first.task.references), (second.output, second.task.references)
        right = [float(exact_match(answer, references)) for answer, references in answers]
        skill = self._skill(first, Question("", second.task.question))
        used = any(uses(query, skill) for query in queries_of(second))
        bonus = self.options_as(SAGEOptions).bonus * right[1] * used
        return [{"right": one, "skill": bonus} for one in right]

    def _skill(self, first: Trajectory, other: Question) -> str:
        """Return the skill that the first answer leaves; empty where there is none."""
        if self.options_as(SAGEOptions).written:
            return first.output or ""
        return next((skill_of(query, other.text) for query in reversed(queries_of(first))), "")

    def _like(self, task: Task) -> Question:
        """Return another question like a task's, the same for all plays of it."""
        others = [i for i, question in enumerate(self.questions) if question.text != task.question]
        drawn = random.Random(task.id).sample(others, min(len(others), self.options_as(SAGEOptions).among))
        if not drawn:  # it is the only one
            return Question(task.id, task.question, task.references, task.hops)
        return self.questions[max(drawn, key=lambda i: (likeness(self.questions[i].text, task.question), -i))]
