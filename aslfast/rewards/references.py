"""A question's reference answer after the policy's attempts, by source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from aslfast.rewards.match import normalize


def own_reference(answers: Sequence[str | None], own: str) -> str:
    """Return the generator's own answer (ASL, Absolute Zero)."""
    return own


def voted_reference(answers: Sequence[str | None], own: str) -> str:
    """Return the policy's most frequent answer as it was first spelled; the generator's own where the policy gave none.

    Of equally frequent ones the first. R-Zero (arXiv 2508.05004): the majority vote is the pseudo-label.
    """
    counts = Counter(normalize(answer) for answer in answers if answer is not None)
    if not counts:
        return own
    most = counts.most_common(1)[0][0]
    return next(answer for answer in answers if answer is not None and normalize(answer) == most)


REFERENCES: Mapping[str, Callable[[Sequence[str | None], str], str]] = {
    "own": own_reference,
    "vote": voted_reference,
}
