"""The three roles: how each is asked, and what its closing turn must hold.

The prompts are files, per set and role: `prompts/<set>/<role>.txt` (the user message) and `system.txt`. The set
`compact` is for the tiny base, `full` for instruct models.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from aslfast.chat import TAGS
from aslfast.core import Role, StopReason, Task

OUTPUT_TAG: dict[Role, str] = {"generator": "question", "grm": "verdict", "policy": "answer"}
STOP_TEXTS = ("</tool_call>", "</answer>", "</verdict>")  # the generator's turn ends with its reference answer
VERDICTS = ("correct", "wrong")
MARKS = tuple(mark for tag in TAGS for mark in (f"<{tag}>", f"</{tag}>"))


@cache
def prompt_text(prompt_set: str, name: str) -> str:
    return (files("aslfast") / "prompts" / prompt_set / f"{name}.txt").read_text(encoding="utf-8").strip()


def _filled(template: str, **values: str) -> str:
    """The template with each {name} replaced, in one pass: braces of a value or of the template's JSON mean nothing."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def policy_task(task_id: str, question: str, prompt_set: str, references: tuple[str, ...] = (), hops: int = 0) -> Task:
    prompt = _filled(prompt_text(prompt_set, "policy"), question=question)
    return Task(task_id, "policy", prompt, question, references, hops)


def grm_task(
    task_id: str, question: str, answer: str, prompt_set: str, label: str | None = None, hops: int = 0
) -> Task:
    """Judge `answer`. Both enter the prompt as data, each on one line, so that a question cannot write the answer's
    line; the answer is cut to 500 characters."""
    lines = {"question": " ".join(question.split()), "answer": " ".join(answer.split())[:500]}
    prompt = _filled(prompt_text(prompt_set, "grm"), **lines)
    return Task(task_id, "grm", prompt, question, (label,) if label else (), hops)


def generator_task(task_id: str, topic: str, hops: int, prompt_set: str) -> Task:
    prompt = _filled(prompt_text(prompt_set, "generator"), topic=topic, hops=str(hops))
    return Task(task_id, "generator", prompt, hops=hops)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the model wrote: the tool's name and its queries; none where its arguments hold none."""

    name: str
    queries: tuple[str, ...]


def tagged(text: str, tag: str) -> tuple[int, str]:
    """How many <tag>..</tag> a turn opens or closes, and the stripped content where it is one, complete."""
    count = max(text.count(f"<{tag}>"), text.count(f"</{tag}>"))
    closed = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return count, closed[0].strip() if closed and count == 1 else ""


def without_thinking(text: str) -> str:
    """What a turn says outside its <think> blocks, nested ones too.

    An unclosed block hides the rest of the turn; a block closed but not opened hides what stands before (some chat
    templates open it in the prompt).
    """
    inner = 1
    while inner:
        text, inner = re.subn(r"<think>(?:(?!</?think>).)*</think>", "", text, flags=re.DOTALL)
    return text.rpartition("</think>")[2].partition("<think>")[0]


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
    n_outputs, output = tagged(said, OUTPUT_TAG[role])
    n_answers, answer = tagged(said, "answer") if role == "generator" else (0, "")
    if n_outputs > 1 or n_answers > 1:
        return StopReason.TWO_OUTPUTS, None, None
    if not output or any(mark in output + answer for mark in MARKS) or (role == "generator" and not answer):
        return StopReason.NO_OUTPUT, None, None
    if role == "grm" and output.lower() not in VERDICTS:
        return StopReason.NO_OUTPUT, None, None
    return StopReason.FINISHED, output.lower() if role == "grm" else output, answer or None


def valid_question(question: str) -> bool:
    """The original's rule: at least 10 characters and a question mark at the end (arXiv 2510.14253, its code)."""
    return len(question) >= 10 and question.endswith("?")
