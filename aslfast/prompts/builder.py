"""How each of the three roles is asked: tasks made from a question, an answer or a topic, by one prompt set.

All texts from outside enter a prompt as data: they fill a template's gaps, and where a prompt has lines, each is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aslfast.core import Question, Task
from aslfast.prompts.templates import fill, one_line, prompt_text

JUDGE_PROMPTS = {  # variant -> prompt file
    "tool": "grm",
    "thinking": "grm-thinking",
    "reference": "grm-reference",
    "uncertain": "grm-uncertain",
    "ranking": "grm-ranking",
}
SECOND_JUDGE = "second_judge"  # the role that judges the first fold's questions: docs/rewards.md
MAX_ANSWER_CHARS = 500  # of a student's answer in the judge's prompt


@dataclass(frozen=True, slots=True)
class PromptBuilder:
    """Makes tasks with the prompts of one set. judge_variant: a key of JUDGE_PROMPTS."""

    prompt_set: str
    judge_variant: str = "tool"

    def policy(self, task_id: str, question: Question) -> Task:
        """Return the task of answering a question."""
        prompt = fill(prompt_text(self.prompt_set, "policy"), question=question.text)
        return Task(task_id, "policy", prompt, question.text, question.references, question.hops, question.fold)

    def judge(self, task_id: str, question: Question, answer: str, label: str | None = None, fold: int = 0) -> Task:
        """Return the task of judging an answer, of which the judge reads the first 500 characters.

        label: the expected verdict, if known. fold: the judge's own, not the question's. The variant `reference` alone
        shows the question's reference. Each text is one line, so that a question cannot write the line of the answer.
        """
        prompt = fill(
            prompt_text(self.prompt_set, JUDGE_PROMPTS[self.judge_variant]),
            question=one_line(question.text),
            answer=one_line(answer)[:MAX_ANSWER_CHARS],
            reference=one_line(question.reference),
        )
        role = SECOND_JUDGE if fold == 2 else "grm"
        return Task(task_id, role, prompt, question.text, (label,) if label else (), question.hops, fold)

    def generator(self, task_id: str, topic: str, hops: int) -> Task:
        """Return the task of writing a question about a topic: the first round's."""
        prompt = fill(prompt_text(self.prompt_set, "generator"), topic=topic, hops=str(hops))
        return Task(task_id, "generator", prompt, hops=hops)

    def variant(
        self, task_id: str, old: Question, accuracy: float, kind: Literal["width", "depth"],
        max_hops: int | None = None,
    ) -> Task:  # fmt: skip
        """Return the task of varying a question that the policy has trained on (ASL): a harder one where the policy
        answered at least half of the time right, else an easier one.

        In depth: one hop more, or one less; in width: as many hops, other knowledge. The task keeps the old question
        and its reference, for rewards that compare with them.
        """
        harder = accuracy >= 0.5
        hops = max(1, old.hops + (0 if kind == "width" else 1 if harder else -1))
        hops = hops if max_hops is None else min(hops, max_hops)
        template = prompt_text(self.prompt_set, f"generator-{kind}-{'harder' if harder else 'easier'}")
        prompt = fill(template, question=one_line(old.text), answer=one_line(old.reference), hops=str(hops))
        return Task(task_id, "generator", prompt, old.text, old.references[:1], hops)
