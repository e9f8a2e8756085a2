"""What a closing turn may hold, and how it is read: strictly, so that form alone wins no verdict, answer or question.

A turn's output stands in its role's tag, once, complete and outside the thinking, and holds no tag of ours. Anything
else is no output. A judge's output is one of ten words, alone; "correct/wrong", "not correct" or "incorrect" is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.core import StopReason

TAGS = ("think", "tool_call", "tool_response", "tools", "answer", "question", "verdict")
MARKS = tuple(mark for tag in TAGS for mark in (f"<{tag}>", f"</{tag}>"))
VERDICTS = ("correct", "wrong", "uncertain")
GRADES = ("A", "B", "C", "D", "E", "F", "G")  # from best to worst: the ranking judge's verdicts
STOP_TEXTS = ("</tool_call>", "</answer>", "</verdict>")  # the generator's turn ends with its reference answer


@dataclass(frozen=True, slots=True)
class WrittenQuestion:
    """A generator's output: a question and its reference answer."""

    question: str
    answer: str


def tagged(text: str, tag: str) -> tuple[int, str]:
    """Return how many <tag>..</tag> a turn opens or closes, and the stripped content where it is one, complete."""
    count = max(text.count(f"<{tag}>"), text.count(f"</{tag}>"))
    closed = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return count, closed[0].strip() if closed and count == 1 else ""


def without_thinking(text: str) -> str:
    """Return a turn's text outside its <think> blocks, nested ones too.

    An unclosed block hides the rest of the turn; a block closed but not opened hides the text before it (some chat
    templates open it in the prompt).
    """
    inner = 1
    while inner:
        text, inner = re.subn(r"<think>(?:(?!</?think>).)*</think>", "", text, flags=re.DOTALL)
    return text.rpartition("</think>")[2].partition("<think>")[0]


def verdict(text: str) -> str | None:
    """Return "correct", "wrong" or "uncertain": a judge's one conclusion, written in upper or lower case."""
    said = (_only(text, "verdict") or "").lower()
    return said if said in VERDICTS else None


def grade(text: str) -> str | None:
    """Return "A" (best) to "G": a ranking judge's one conclusion."""
    said = _only(text, "verdict")
    return said if said in GRADES else None


def judgement(text: str) -> str | None:
    """Return the judge's one conclusion, verdict or grade. A word that its prompt did not offer matches no label."""
    return verdict(text) or grade(text)


def answer(text: str) -> str | None:
    """Return the one answer of a policy's closing turn."""
    return _only(text, "answer")


def question(text: str) -> WrittenQuestion | None:
    """Return the one question of a generator's closing turn with its one answer; None where either is missing.

    Whether the question is worth asking is another matter: `valid_question`.
    """
    asked, reference = _only(text, "question"), _only(text, "answer")
    return WrittenQuestion(asked, reference) if asked and reference else None


def valid_question(question: str) -> bool:
    """Return whether a question has at least 10 characters and a question mark at its end.

    The rule of arXiv 2510.14253's code, whose question mark may also stand among the last five characters.
    """
    return len(question) >= 10 and question.endswith("?")


def parse_output(tags: Sequence[str], text: str) -> tuple[StopReason, str | None, str | None]:
    """Return how a closing turn ends, its output, and what its second tag holds, where its role has two.

    A closing turn has each tag of its role once. The tag "verdict" holds one of the judges' words.
    """
    said = without_thinking(text)
    if any(tagged(said, tag)[0] > 1 for tag in tags):
        return StopReason.TWO_OUTPUTS, None, None
    found = [judgement(text) if tag == "verdict" else _only(text, tag) for tag in tags]
    if None in found:
        return StopReason.NO_OUTPUT, None, None
    return StopReason.FINISHED, found[0], found[1] if len(found) > 1 else None


def _only(text: str, tag: str) -> str | None:
    """Return the content of a tag that a turn holds once outside its thinking, with none of our tags inside."""
    count, content = tagged(without_thinking(text), tag)
    return content if count == 1 and content and not any(mark in content for mark in MARKS) else None
