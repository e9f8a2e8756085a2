"""What a judge's closing words are worth, and what a question of a pool is drawn with: shared by several systems."""

from __future__ import annotations

import re

from aslfast.core import Question
from aslfast.phase import Play
from aslfast.pool import Pool


def score_of(said: str | None, low: int, high: int) -> float | None:
    """Return a judge's score from 0 to 1: (s - low) / (high - low) for a whole number s; None for what is no score.

    The verdicts "correct" and "wrong" are the highest and the lowest: what a judge that knows no numbers says.
    """
    if said in ("correct", "wrong"):
        return float(said == "correct")
    number = int(said) if said and re.fullmatch(r"\d{1,3}", said) else None
    return (number - low) / (high - low) if number is not None and low <= number <= high else None


def drawn(pool: Pool, play: Play, name: str) -> Question | None:
    """Return one question of a pool by its priorities, the same whatever else is played; None of an empty pool.

    The pool stays as it is, so that a play may call it.
    """
    return next(iter(Pool(dict(pool.items)).draw(1, play.rng(name))), None)
