"""Trajectory -> Reward, its parts named. Pure functions; the recipe says which and with what weight.

Source of the formulas: Agentic Self-Learning, arXiv 2510.14253, and its code.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence

from aslfast.core import Reward, StopReason, Trajectory


def normalize(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: SQuAD's and Search-R1's form, letter for letter.

    We differ where nothing would be left ("The The", "?"): the lower-case text then stands for itself, lest all such
    answers be equal.
    """
    lower = text.lower()
    bare = "".join(c for c in lower if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split()) or " ".join(lower.split())


def exact_match(answer: str | None, references: Sequence[str]) -> bool:
    return answer is not None and normalize(answer) in {normalize(reference) for reference in references}


def contains_match(answer: str | None, references: Sequence[str]) -> bool:
    """Whether a reference stands in the answer as a run of whole words."""
    said = f" {normalize(answer or '')} "
    return any(f" {normalize(reference)} " in said for reference in references if normalize(reference))


def f1(answer: str | None, references: Sequence[str]) -> float:
    """The best word-overlap F1 against any reference (SQuAD)."""
    return max((_f1(normalize(answer or "").split(), normalize(r).split()) for r in references), default=0.0)


def _f1(said: list[str], wanted: list[str]) -> float:
    common = sum(min(said.count(word), wanted.count(word)) for word in set(said))
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def verdict_entropy(verdicts: Sequence[str | None]) -> float:
    """H(p) in nats, p the share of `correct` among the verdicts given; at most ln 2. No verdict counts as wrong."""
    p = sum(v == "correct" for v in verdicts) / len(verdicts) if verdicts else 0.0
    return sum(-q * math.log(q) for q in (p, 1 - p) if q > 0)


def majority(verdicts: Sequence[str | None]) -> str | None:
    """The verdict of more than half; None where there is none."""
    return next((v for v in verdicts if v and 2 * sum(w == v for w in verdicts) > len(verdicts)), None)


def format_reward(trajectory: Trajectory) -> float:
    """(share of turns that open with a closed <think> block + 1 if a tool response was received) / 4.

    0 unless finished: the original pays unfinished trajectories too; here an agent that breaks off is paid nothing.
    """
    if trajectory.stop is not StopReason.FINISHED:
        return 0.0
    said = [turn.text.lstrip() for turn in trajectory.turns if turn.kind == "sampled"]
    thinking = sum(text.startswith("<think>") and "</think>" in text for text in said) / len(said)
    return (thinking + (trajectory.tool_calls > 0)) / 4


def policy_reward(trajectory: Trajectory, verdict: str | None, format_weight: float) -> Reward:
    """1 if the judge calls the answer correct; 0 without an answer."""
    right = trajectory.output is not None and verdict == "correct"
    return Reward({"judge": float(right), "format": format_weight * format_reward(trajectory)})


def grm_reward(trajectory: Trajectory, label: str, format_weight: float) -> Reward:
    """1 if the verdict is the label."""
    matches = trajectory.output is not None and trajectory.output == label
    return Reward({"match": float(matches), "format": format_weight * format_reward(trajectory)})


def accepted(self_verdicts: Sequence[str | None], accept_share: float) -> bool:
    """The gate: the judge calls the generator's own answer correct in at least that share of its samples."""
    wanted = accept_share * len(self_verdicts)
    return sum(v == "correct" for v in self_verdicts) >= wanted - 1e-9  # 0.28 * 25 is a little above 7


def generator_reward(
    trajectory: Trajectory,
    valid: bool,
    verdicts: Sequence[str | None],
    self_verdicts: Sequence[str | None],
    accept_share: float,
    format_weight: float,
) -> Reward:
    """Entropy of the judge's verdicts over the policy's attempts, in units of ln 2; 0 for an invalid question, and 0
    unless the judge accepts the generator's own answer in at least `accept_share` of its samples."""
    if not valid:
        return Reward({"entropy": 0.0, "format": 0.0})
    entropy = verdict_entropy(verdicts) / math.log(2) if accepted(self_verdicts, accept_share) else 0.0
    return Reward({"entropy": entropy, "format": format_weight * format_reward(trajectory)})
