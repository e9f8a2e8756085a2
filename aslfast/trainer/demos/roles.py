"""One demonstration of each role: what a careful person would have searched, and concluded from what was found.

The evidence is not quoted: a small model that learns to quote learns to copy, and answers half as many questions right.
The question is said again after the passage, where the reading practice has it (docs/real.md).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.core import Question, Trajectory
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.templates import one_line
from aslfast.rewards.distractors import plausible_wrong
from aslfast.rollout.multi_turn import Limits
from aslfast.trainer.demos.evidence import Evidence, Lookup
from aslfast.trainer.demos.writer import DemonstrationWriter

Written = Trajectory | str  # or why there is none


@dataclass(frozen=True)
class RolePlayer:
    """Writes demonstrations with the prompts of one model. system: the system message of every role."""

    chat: Chat
    prompts: PromptBuilder
    system: str
    limits: Limits

    def policy(self, question: Question, lookup: Lookup, evidence: Evidence) -> Written:
        """Search with the question's key words, answer."""
        task = self.prompts.policy(f"demo-policy-{question.id}", question)
        writer = DemonstrationWriter(self.chat, task, self.system)
        writer.search(_plan(lookup.query), lookup.query, lookup.observation)
        writer.close(_asked(question), answer=evidence.answer)
        return writer.trajectory(self.limits)

    def judge(
        self, question: Question, lookup: Lookup, evidence: Evidence, others: Sequence[tuple[str, str]],
        rng: random.Random,
    ) -> list[Written]:  # fmt: skip
        """Judge a right answer, any accepted spelling of it, and a plausible wrong one; search, compare.

        others: (question, answer) pairs to take the wrong one from.
        """
        wrong = plausible_wrong(question.text, question.references, others, rng)
        if wrong is None:
            return ["no plausible wrong answer"]
        given = {"correct": rng.choice(question.references), "wrong": wrong}
        return [self._verdict(question, lookup, evidence, answer, label) for label, answer in given.items()]

    def _verdict(self, question: Question, lookup: Lookup, evidence: Evidence, answer: str, label: str) -> Written:
        task = self.prompts.judge(f"demo-grm-{question.id}-{label}", question, answer, label)
        writer = DemonstrationWriter(self.chat, task, self.system)
        writer.search(_plan(lookup.query), lookup.query, lookup.observation)
        compared = f"The student says {answer}: {'the same' if label == 'correct' else 'something else'}."
        writer.close(f"{_asked(question)} The answer is {evidence.answer}. {compared}", verdict=label)
        return writer.trajectory(self.limits)

    def generator(self, question: Question, lookup: Lookup, evidence: Evidence) -> Written:
        """Search about the evidence's topic, ask the labelled question about it."""
        task = self.prompts.generator(f"demo-generator-{question.id}", evidence.topic, 1)
        writer = DemonstrationWriter(self.chat, task, self.system)
        writer.search(_plan(lookup.query), lookup.query, lookup.observation)
        writer.close(f"I ask for {evidence.answer}.", question=one_line(question.text), answer=evidence.answer)
        return writer.trajectory(self.limits)


def _asked(question: Question) -> str:
    return f"Question: {one_line(question.text)}"


def _plan(query: str) -> str:
    return f"I search for {query}."
