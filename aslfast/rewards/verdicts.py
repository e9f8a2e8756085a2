"""Verdicts, alone and together. A verdict is a word or grade of prompts/parsing.py, or None where none was given."""

from __future__ import annotations

import math
from collections.abc import Sequence

# ASL's scores of its ranking judge (arXiv 2510.14253's code); there and here "uncertain" and no verdict score as wrong.
SCORES = {"correct": 1.0, "A": 1.0, "B": 0.8, "C": 0.6, "D": 0.4, "E": 0.2}


def verdict_score(verdict: str | None) -> float:
    """Return how good the judge calls the answer, from 0 to 1."""
    return SCORES.get(verdict or "", 0.0)


def favourable(verdict: str | None) -> bool:
    """Return whether the judge passes the answer: "correct", or a grade whose score is above 1/2 (A to C)."""
    return verdict_score(verdict) > 0.5


def as_label(verdict: str | None) -> str | None:
    """Return the side that a verdict or grade takes: "correct", "wrong", or None where it takes none."""
    if verdict in (None, "uncertain"):
        return None
    return "correct" if favourable(verdict) else "wrong"


def accuracy(verdicts: Sequence[str | None]) -> float:
    """Return p, the fraction of favourable verdicts; 0 without any verdict."""
    return sum(map(favourable, verdicts)) / len(verdicts) if verdicts else 0.0


def verdict_entropy(verdicts: Sequence[str | None]) -> float:
    """Return H(p) = -p ln p - (1 - p) ln (1 - p) in nats, p the fraction of favourable verdicts (ASL).

    From 0 to ln 2, the same for p and 1 - p. A missing verdict counts as unfavourable.
    """
    p = accuracy(verdicts)
    return sum(-q * math.log(q) for q in (p, 1 - p) if q > 0)


def majority(verdicts: Sequence[str | None]) -> str | None:
    """Return the verdict that more than half of them are; None where there is none."""
    return next((v for v in verdicts if v and 2 * sum(w == v for w in verdicts) > len(verdicts)), None)


def accepted(self_verdicts: Sequence[str | None], min_acceptance: float) -> bool:
    """Return whether the judge passes the generator's own answer in at least that fraction of its samples.

    The acceptance filter (ASL: 0.8 of 5 samples).
    """
    wanted = min_acceptance * len(self_verdicts)
    return sum(map(favourable, self_verdicts)) >= wanted - 1e-9  # 0.28 * 25 is a little above 7
