"""Former names for builder.py, tool_calls.py, templates.py and parsing.py, until all callers use those."""

from __future__ import annotations

from typing import Literal

from aslfast.core import Task
from aslfast.prompts.builder import JUDGE_PROMPTS, PromptBuilder, QuestionSpec
from aslfast.prompts.parsing import OUTPUT_TAGS, STOP_TEXTS, parse_output, tagged, without_thinking
from aslfast.prompts.templates import prompt_text
from aslfast.prompts.tool_calls import Call, parse_call

__all__ = [
    "JUDGE_PROMPTS", "OUTPUT_TAGS", "STOP_TEXTS", "Call", "generator_task", "grm_task", "parse_call", "parse_output",
    "policy_task", "prompt_text", "tagged", "variant_task", "without_thinking",
]  # fmt: skip


def policy_task(
    task_id: str, question: str, prompt_set: str, references: tuple[str, ...] = (), hops: int = 0, fold: int = 0
) -> Task:
    """PromptBuilder.policy."""
    return PromptBuilder(prompt_set).policy(task_id, QuestionSpec(question, references, hops, fold))


# the signature of before: PromptBuilder.judge takes its place
def grm_task(
    task_id: str, question: str, answer: str, prompt_set: str, label: str | None = None, hops: int = 0,
    variant: str = "tool", reference: str = "", fold: int = 0,
) -> Task:  # fmt: skip
    """PromptBuilder.judge."""
    asked = QuestionSpec(question, (reference,), hops)
    return PromptBuilder(prompt_set, variant).judge(task_id, asked, answer, label, fold)


def generator_task(task_id: str, topic: str, hops: int, prompt_set: str) -> Task:
    """PromptBuilder.generator."""
    return PromptBuilder(prompt_set).generator(task_id, topic, hops)


def variant_task(
    task_id: str, old: Task, accuracy: float, kind: Literal["width", "depth"], prompt_set: str,
    most_hops: int | None = None,
) -> Task:  # fmt: skip
    """PromptBuilder.variant."""
    asked = QuestionSpec(old.question, old.references, old.hops)
    return PromptBuilder(prompt_set).variant(task_id, asked, accuracy, kind, most_hops)
