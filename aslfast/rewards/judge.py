"""The judge's reward: its verdict against the label ("correct" or "wrong"). By the variant of its prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aslfast.core import Reward, Trajectory
from aslfast.prompts.parsing import GRADES, VERDICTS
from aslfast.rewards.format import format_reward
from aslfast.rewards.verdicts import verdict_score


def matching(verdict: str | None, label: str) -> float:
    """1 if the verdict is the label (ASL). The original asks whether the label's letters stand in the verdict."""
    return float(verdict == label)


def abstaining(verdict: str | None, label: str) -> float:
    """As matching, and 1/2 for "uncertain": what a coin flip earns on balanced labels, so that abstaining pays just
    where the judge knows nothing. The original pays it nothing, as a wrong verdict."""
    return 0.5 if verdict == "uncertain" else matching(verdict, label)


def graded(verdict: str | None, label: str) -> float:
    """1 - (s - y)^2, s the grade's score and y = 1 for the label "correct", else 0; 0 for what is no grade.

    Brier's score: the best grade is the one nearest to the believed chance that the answer is right. The original
    pays 1 for the very grade of the label alone, and its table of grades by label is off by some.
    """
    if verdict not in GRADES:
        return 0.0
    return 1 - (verdict_score(verdict) - (label == "correct")) ** 2


GRM_REWARDS: Mapping[str, Callable[[str | None, str], float]] = {
    "tool": matching,
    "thinking": matching,
    "reference": matching,
    "uncertain": abstaining,
    "ranking": graded,
}


def offered(verdict: str | None, variant: str) -> str | None:
    """The verdict if the variant's prompt offers it, else None: a correct/wrong judge that says "A" says nothing."""
    words = {"uncertain": VERDICTS, "ranking": GRADES}.get(variant, VERDICTS[:2])
    return verdict if verdict in words else None


def grm_reward(trajectory: Trajectory, label: str, format_weight: float, variant: str = "tool") -> Reward:
    match = GRM_REWARDS[variant](offered(trajectory.output, variant), label)
    return Reward({"match": match, "format": format_weight * format_reward(trajectory)})
