"""The three roles: how each is asked, and what its closing turn comes to.

The prompts are files, `prompts/<set>/<name>.txt` (the user message) and `system.txt`. The set `compact` is for the tiny
base, `full` for instruct models. The judge's prompt has variants, the generator's too: see docs/rewards.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from aslfast.core import Role, StopReason, Task
from aslfast.prompts import parsing
from aslfast.prompts.parsing import tagged, without_thinking

OUTPUT_TAGS: dict[Role, tuple[str, ...]] = {
    "generator": ("question", "answer"),
    "grm": ("verdict",),
    "policy": ("answer",),
}
STOP_TEXTS = ("</tool_call>", "</answer>", "</verdict>")  # the generator's turn ends with its reference answer
JUDGE_PROMPTS = {
    "tool": "grm",
    "thinking": "grm-thinking",
    "reference": "grm-reference",
    "uncertain": "grm-uncertain",
    "ranking": "grm-ranking",
}
MAX_ANSWER_CHARS = 500  # of a student's answer in the judge's prompt


@cache
def prompt_text(prompt_set: str, name: str) -> str:
    return (files("aslfast.prompts") / prompt_set / f"{name}.txt").read_text(encoding="utf-8").strip()


def _filled(template: str, **values: str) -> str:
    """The template with each {name} replaced, in one pass: braces of a value or of the template's JSON mean nothing."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def _line(text: str) -> str:
    """A text as data on one line: it cannot write the prompt's next line."""
    return " ".join(text.split())


def policy_task(
    task_id: str, question: str, prompt_set: str, references: tuple[str, ...] = (), hops: int = 0, fold: int = 0
) -> Task:
    prompt = _filled(prompt_text(prompt_set, "policy"), question=question)
    return Task(task_id, "policy", prompt, question, references, hops, fold)


def grm_task(
    task_id: str,
    question: str,
    answer: str,
    prompt_set: str,
    label: str | None = None,
    hops: int = 0,
    variant: str = "tool",
    reference: str = "",
    fold: int = 0,
) -> Task:
    """Judge `answer`. All texts enter the prompt as data, each on one line, so that a question cannot write the line of
    the answer, which is cut to 500 characters. The variant `reference` alone shows `reference`."""
    template = prompt_text(prompt_set, JUDGE_PROMPTS[variant])
    student = _line(answer)[:MAX_ANSWER_CHARS]
    prompt = _filled(template, question=_line(question), answer=student, reference=_line(reference))
    return Task(task_id, "grm", prompt, question, (label,) if label else (), hops, fold)


def generator_task(task_id: str, topic: str, hops: int, prompt_set: str) -> Task:
    """A question about a topic: the first round's."""
    prompt = _filled(prompt_text(prompt_set, "generator"), topic=topic, hops=str(hops))
    return Task(task_id, "generator", prompt, hops=hops)


def variant_task(
    task_id: str, old: Task, accuracy: float, kind: Literal["width", "depth"], prompt_set: str,
    most_hops: int | None = None,
) -> Task:  # fmt: skip
    """A question after one that the policy has trained on: harder where it answered at least half right, else easier
    (ASL). In depth: one hop more, or one less; in width: the same number of hops, other knowledge.

    `old` is the policy's task with its reference; both are kept in the new task, for rewards that compare with them.
    """
    harder = accuracy >= 0.5
    hops = max(1, old.hops + (0 if kind == "width" else 1 if harder else -1))
    hops = hops if most_hops is None else min(hops, most_hops)
    name = f"generator-{kind}-{'harder' if harder else 'easier'}"
    reference = old.references[0] if old.references else ""
    prompt = _filled(
        prompt_text(prompt_set, name), question=_line(old.question), answer=_line(reference), hops=str(hops)
    )
    return Task(task_id, "generator", prompt, old.question, old.references[:1], hops)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the model wrote: the tool's name and its queries; none where its arguments hold none."""

    name: str
    queries: tuple[str, ...]


def parse_call(text: str) -> Call | None:
    """The one tool call of a turn; None where it is malformed.

    `{"name": "search", "arguments": {"query": "..."}}`, or a list of queries under `query_list`.
    """
    count, content = tagged(text, "tool_call")
    try:
        call = json.loads(content) if count == 1 else None
    except (ValueError, RecursionError):
        return None
    match call:
        case {"name": str(name), "arguments": dict(arguments)}:
            return Call(name, _queries(arguments))
    return None


def _queries(arguments: dict[str, Any]) -> tuple[str, ...]:
    """The queries of a call; none where one of them is no text."""
    queries = arguments.get("query_list", [arguments.get("query")])
    if not isinstance(queries, list) or not all(isinstance(query, str) and query.strip() for query in queries):
        return ()
    return tuple(query.strip() for query in queries)


def parse_output(role: Role, text: str) -> tuple[StopReason, str | None, str | None]:
    """How a closing turn ends, its output, and (generator) the reference answer that came with the question."""
    said = without_thinking(text)
    if any(tagged(said, tag)[0] > 1 for tag in OUTPUT_TAGS[role]):
        return StopReason.TWO_OUTPUTS, None, None
    if role == "generator":
        written = parsing.question(text)
        output, reference = (written.question, written.answer) if written else (None, None)
    else:
        output, reference = (parsing.answer(text) if role == "policy" else parsing.judgement(text)), None
    return StopReason.NO_OUTPUT if output is None else StopReason.FINISHED, output, reference
