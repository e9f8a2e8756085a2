"""Labels of attempts for the judge to learn from, by source, and the balance between them. No human help, but for
`gold_labels`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aslfast.rewards.match import exact_match, normalize
from aslfast.rewards.verdicts import as_label

Labels = dict[str, str]  # distinct answer -> "correct" or "wrong", in the order they were first given


@dataclass(frozen=True, slots=True)
class Attempt:
    """A policy's answer at a generated question, and the verdicts on it."""

    answer: str
    verdicts: tuple[str | None, ...]


def reference_labels(attempts: Sequence[Attempt], reference: str) -> Labels:
    """The generator's answer is right, any other wrong (ASL with a rule for the generator's reward)."""
    return gold_labels([attempt.answer for attempt in attempts], [reference])


def gold_labels(answers: Sequence[str], references: Sequence[str]) -> Labels:
    """What matches a reference exactly is right: labels from real data (ASL's late injection)."""
    return {answer: _label(exact_match(answer, references)) for answer in answers}


def self_labels(attempts: Sequence[Attempt], reference: str) -> Labels:
    """The judge's own earlier verdict (ASL): the first that took a side on that answer; where none did, no label.

    The original labels every attempt apart, the same answer with different labels too.
    """
    labels: Labels = {}
    for attempt in attempts:
        for label in filter(None, map(as_label, attempt.verdicts)):
            labels.setdefault(attempt.answer, label)
    return labels


def majority_labels(attempts: Sequence[Attempt], reference: str) -> Labels:
    """The majority of the judge's verdicts on that answer over all attempts that gave it; ties give no label."""
    votes: dict[str, Counter[str]] = {}
    for attempt in attempts:
        votes.setdefault(attempt.answer, Counter()).update(filter(None, map(as_label, attempt.verdicts)))
    return {
        answer: _label(given["correct"] > given["wrong"])
        for answer, given in votes.items()
        if given["correct"] != given["wrong"]
    }


def consensus_labels(attempts: Sequence[Attempt], reference: str) -> Labels:
    """As from the reference, but only where the policy's most frequent answer is the reference, given at least twice:
    two roles that reached it independently. Other questions give no labels."""
    counts = Counter(normalize(attempt.answer) for attempt in attempts)
    own = counts.pop(normalize(reference), 0)
    agreed = own >= 2 and own > max(counts.values(), default=0)
    return reference_labels(attempts, reference) if agreed else {}


LABELS: Mapping[str, Callable[[Sequence[Attempt], str], Labels]] = {
    "reference": reference_labels,
    "self": self_labels,
    "majority": majority_labels,
    "consensus": consensus_labels,
}


def balanced(labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """(answer, label), as many right as wrong ones, in turn: the rarer label's number of each (ASL, which draws the
    others at random where we take the first)."""
    right, wrong = ([answer for answer, label in labels.items() if label == wanted] for wanted in ("correct", "wrong"))
    pairs = zip(right, wrong, strict=False)
    return [pair for r, w in pairs for pair in ((r, "correct"), (w, "wrong"))]


def _label(right: bool) -> str:
    return "correct" if right else "wrong"
