"""SSRL, self-search RL (arXiv 2508.10874; TsinghuaC3I/SSRL@3009f21): the policy answers its own searches from what it
knows. Its reward; the rest is the recipe's: the tool `model:searcher` on the policy's adapter.
"""

from __future__ import annotations

import re

from aslfast.core import StopReason, Trajectory
from aslfast.rewards import AnswerEvidence, exact_match

MOST_THOUGHTS = 8
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_OTHER_TAG = re.compile(r"</?(?!think\b|tool_call\b|answer\b)[A-Za-z_]\w*>")


def reward(evidence: AnswerEvidence) -> float:
    """Return 0.9 EM + 0.1 F (SSRL's code), F as in `form`; without a trajectory F is 0."""
    right = exact_match(evidence.answer, evidence.references)
    return 0.9 * right + (0.1 * form(evidence.trajectory) if evidence.trajectory else 0.0)


def form(trajectory: Trajectory) -> float:
    """Return F: `balance` of its thoughts and searches; 0 where it is malformed.

    Malformed, as in SSRL's code: it does not begin with a thought or end with an answer, a thought is empty or a
    placeholder, there are more than 8, a query is over a line, or a tag is unknown. We differ: a search is followed by
    its passage in any case, since another act writes that.
    """
    said = [turn.said for turn in trajectory.turns if turn.kind == "sampled"]
    thoughts = [thought.strip(" .\n") for text in said for thought in _THOUGHT.findall(text)]
    odd = any(_OTHER_TAG.search(text) or _over_a_line(text) for text in said)
    finished = trajectory.stop is StopReason.FINISHED and said[0].lstrip().startswith("<think>")
    if odd or not finished or not all(thoughts) or len(thoughts) > MOST_THOUGHTS:
        return 0.0
    return balance(len(thoughts), trajectory.tool_calls)


def balance(thoughts: int, searches: int) -> float:
    """Return min(T / 2, 1) min(T, S + 1) / max(T, S + 1): highest for a thought before each search and the answer."""
    turns = searches + 1
    return min(thoughts / 2, 1.0) * min(thoughts, turns) / max(thoughts, turns)


def _over_a_line(text: str) -> bool:
    return any("\\n" in call for call in re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL))
