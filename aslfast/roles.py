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

from aslfast.core import Role, StopReason, Task

OUTPUT_TAG: dict[Role, str] = {"generator": "question", "grm": "verdict", "policy": "answer"}
STOP_TEXTS = ("</tool_call>", "</answer>", "</verdict>")  # the generator's turn ends with its reference answer
VERDICTS = ("correct", "wrong")


@cache
def prompt_text(prompt_set: str, name: str) -> str:
    return (files("aslfast") / "prompts" / prompt_set / f"{name}.txt").read_text(encoding="utf-8").strip()


def _filled(template: str, **values: str) -> str:
    """The template with each {name} replaced, in one pass: braces in a value, or of JSON in a template, mean nothing."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def policy_task(task_id: str, question: str, prompt_set: str, references: tuple[str, ...] = (), hops: int = 0) -> Task:
    prompt = _filled(prompt_text(prompt_set, "policy"), question=question)
    return Task(task_id, "policy", prompt, question, references, hops)


def grm_task(task_id: str, question: str, answer: str, prompt_set: str, label: str | None = None, hops: int = 0) -> Task:
    """Judge `answer`. It enters the prompt as data, on one line, cut to 500 characters."""
    prompt = _filled(prompt_text(prompt_set, "grm"), question=question, answer=" ".join(answer.split())[:500])
    return Task(task_id, "grm", prompt, question, (label,) if label else (), hops)


def generator_task(task_id: str, topic: str, hops: int, prompt_set: str) -> Task:
    prompt = _filled(prompt_text(prompt_set, "generator"), topic=topic, hops=str(hops))
    return Task(task_id, "generator", prompt, hops=hops)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the model wrote: the tool's name and its queries."""

    name: str
    queries: tuple[str, ...]


def tagged(text: str, tag: str) -> list[str]:
    """The stripped contents of every closed <tag>..</tag> of a turn."""
    return [part.strip() for part in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)]


def without_thinking(text: str) -> str:
    """What a turn says outside its <think> blocks; an unclosed block hides the rest of the turn."""
    return re.sub(r"<think>.*?(</think>|$)", "", text, flags=re.DOTALL)


def parse_call(text: str) -> Call | None:
    """The one tool call of a turn; None where it is malformed.

    `{"name": "search", "arguments": {"query": "..."}}`, or a list of queries under `query_list`.
    """
    calls = tagged(text, "tool_call")
    if len(calls) != 1:
        return None
    try:
        call = json.loads(calls[0])
        arguments = call["arguments"]
        queries = arguments["query_list"] if "query_list" in arguments else [arguments["query"]]
        name = call["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    well_formed = isinstance(name, str) and isinstance(queries, list) and queries and all(isinstance(q, str) and q.strip() for q in queries)
    return Call(name, tuple(q.strip() for q in queries)) if well_formed else None


def parse_output(role: Role, text: str) -> tuple[StopReason, str | None, str | None]:
    """How a closing turn ends, its output, and (generator) the reference answer that came with the question."""
    said = without_thinking(text)
    outputs = tagged(said, OUTPUT_TAG[role])
    answers = tagged(said, "answer") if role == "generator" else []
    if len(outputs) > 1 or len(answers) > 1:
        return StopReason.TWO_OUTPUTS, None, None
    if not outputs or not outputs[0] or (role == "generator" and not (answers and answers[0])):
        return StopReason.NO_OUTPUT, None, None
    if role == "grm" and outputs[0].lower() not in VERDICTS:
        return StopReason.NO_OUTPUT, None, None
    output = outputs[0].lower() if role == "grm" else outputs[0]
    return StopReason.FINISHED, output, answers[0] if answers else None


def valid_question(question: str) -> bool:
    """The original's rule: at least 10 characters and a question mark at the end (arXiv 2510.14253, its code)."""
    return len(question) >= 10 and question.endswith("?")
