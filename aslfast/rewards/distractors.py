"""Plausible wrong answers, for verification tasks made from real questions."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from aslfast.rewards.match import substring_match
from aslfast.rewards.near_duplicates import question_similarity

CANDIDATES = 200  # other questions that are compared
NEAREST = 5  # among the most similar of them one is drawn


def plausible_wrong(
    question: str, answers: Sequence[str], others: Sequence[tuple[str, str]], rng: random.Random
) -> str | None:
    """Return another question's answer that could be one to this: of the same form if any is, the question similar.

    others: (question, answer) pairs. None if each of their answers contains a right one or is contained in one. The
    answer is drawn from the five most similar (`question_similarity`) of up to 200 others, themselves drawn. ASL
    (arXiv 2510.14253) has a language model write wrong answers; this needs neither a model nor the corpus.
    """
    drawn = rng.sample(list(others), min(CANDIDATES, len(others)))
    wrong = [(asked, answer) for asked, answer in drawn if not _may_be_right(answer, answers)]
    same_form = [other for other in wrong if answer_form(other[1]) == answer_form(answers[0])]
    ranked = sorted(same_form or wrong, key=lambda other: question_similarity(question, other[0]), reverse=True)
    return rng.choice(ranked[:NEAREST])[1] if ranked else None


def _may_be_right(answer: str, answers: Sequence[str]) -> bool:
    """Return whether an answer contains a right one or is contained in one."""
    return substring_match(answer, answers) or any(substring_match(right, [answer]) for right in answers)


def answer_form(answer: str) -> tuple[str, int]:
    """Return ("number", "name" or "word": the first character; 1, 2 or 3: one word, 2 to 4, or more)."""
    first, words = next(iter(re.findall(r"\w", answer)), ""), len(answer.split())
    kind = "number" if first.isdigit() else "name" if first.isupper() else "word"
    return kind, 1 if words <= 1 else 2 if words <= 4 else 3
