"""What a closing turn may hold, and how it is read: strict, so that no verdict, answer or question is won by its form.

A turn's output stands in its role's tag, once, complete and outside the thinking, and holds no tag of ours. Anything
else is no output. A judge's output is one of ten words, alone; "correct/wrong", "not correct" or "incorrect" is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TAGS = ("think", "tool_call", "tool_response", "tools", "answer", "question", "verdict")
MARKS = tuple(mark for tag in TAGS for mark in (f"<{tag}>", f"</{tag}>"))
VERDICTS = ("correct", "wrong", "uncertain")
GRADES = ("A", "B", "C", "D", "E", "F", "G")  # from best to worst: what the ranking judge says instead


@dataclass(frozen=True, slots=True)
class WrittenQuestion:
    """What a generator owes: a question and its reference answer."""

    question: str
    answer: str


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


def verdict(text: str) -> str | None:
    """ "correct", "wrong" or "uncertain": the one conclusion of a judge's closing turn, in any case of letters."""
    said = (_only(text, "verdict") or "").lower()
    return said if said in VERDICTS else None


def grade(text: str) -> str | None:
    """ "A" (best) to "G": the one conclusion of a ranking judge's closing turn."""
    said = _only(text, "verdict")
    return said if said in GRADES else None


def judgement(text: str) -> str | None:
    """The judge's one conclusion, verdict or grade. A word that its prompt did not offer matches no label."""
    return verdict(text) or grade(text)


def answer(text: str) -> str | None:
    """The one answer of a policy's closing turn."""
    return _only(text, "answer")


def question(text: str) -> WrittenQuestion | None:
    """The one question of a generator's closing turn with its one answer; None where either is missing.

    Whether the question is worth asking is another matter: `valid_question`.
    """
    asked, reference = _only(text, "question"), _only(text, "answer")
    return WrittenQuestion(asked, reference) if asked and reference else None


def valid_question(question: str) -> bool:
    """At least 10 characters and a question mark at the end: the rule of arXiv 2510.14253's code, whose question mark
    may also stand among the last five characters."""
    return len(question) >= 10 and question.endswith("?")


def _only(text: str, tag: str) -> str | None:
    count, content = tagged(without_thinking(text), tag)
    return content if count == 1 and content and not any(mark in content for mark in MARKS) else None
