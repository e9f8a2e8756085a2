"""The judge's rewards by the variant of its prompt: its verdict against the label ("correct" or "wrong")."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aslfast.prompts.parsing import GRADES, VERDICTS
from aslfast.rewards.verdicts import verdict_score


def matching(verdict: str | None, label: str) -> float:
    """Return 1 if the verdict is the label (ASL), else 0. The original looks for the label's letters in the verdict."""
    return float(verdict == label)


def abstaining(verdict: str | None, label: str) -> float:
    """Return 1/2 for "uncertain", else as `matching`.

    A coin flip earns 1/2 on balanced labels, so that abstaining is worth it just where the judge knows nothing. In the
    original "uncertain" earns 0, as a wrong verdict does.
    """
    return 0.5 if verdict == "uncertain" else matching(verdict, label)


def graded(verdict: str | None, label: str) -> float:
    """Return 1 - (s - y)^2, s the grade's score and y = 1 for the label "correct", else 0; 0 for what is no grade.

    Brier's score: the best grade is the one nearest to the believed probability that the answer is right. The original
    rewards the label's very grade alone, and its table of grades by label has errors.
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
    """Return the verdict if the variant's prompt offers it, else None: a correct/wrong judge has no grade "A"."""
    words = {"uncertain": VERDICTS, "ranking": GRADES}.get(variant, VERDICTS[:2])
    return verdict if verdict in words else None
