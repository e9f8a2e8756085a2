"""Labels of the policy's attempts for the judge to learn from, and a question's reference answer after them, by source.

No source needs human labels, except `gold_labels`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from aslfast.core import Attempt
from aslfast.rewards.match import exact_match, normalize
from aslfast.rewards.verdicts import as_label

Labels = dict[str, str]  # distinct answer -> "correct" or "wrong", in the order they were first given


def reference_labels(attempts: Sequence[Attempt], reference: str) -> Labels:
    """Label the generator's own answer right, any other wrong (ASL with a rule for the generator's reward)."""
    return gold_labels([answer for answer, _ in _answered(attempts)], [reference])


def gold_labels(answers: Sequence[str], references: Sequence[str]) -> Labels:
    """Label exact matches of a reference right, others wrong: labels from real data (ASL's late injection)."""
    return {answer: _label(exact_match(answer, references)) for answer in answers}


def self_labels(attempts: Sequence[Attempt], reference: str) -> Labels:
    """Label each answer by the judge's own first verdict that took a side on it (ASL); where none did, not at all.

    The original labels every attempt separately, so that one answer may have both labels.
    """
    labels: Labels = {}
    for answer, verdicts in _answered(attempts):
        for label in filter(None, map(as_label, verdicts)):
            labels.setdefault(answer, label)
    return labels


def majority_labels(attempts: Sequence[Attempt], reference: str) -> Labels:
    """Label each answer by the majority of the judge's verdicts over all attempts that gave it; ties give no label."""
    votes: dict[str, Counter[str]] = {}
    for answer, verdicts in _answered(attempts):
        votes.setdefault(answer, Counter()).update(filter(None, map(as_label, verdicts)))
    return {
        answer: _label(given["correct"] > given["wrong"])
        for answer, given in votes.items()
        if given["correct"] != given["wrong"]
    }


def consensus_labels(attempts: Sequence[Attempt], reference: str) -> Labels:
    """Label as `reference_labels` where the policy's most frequent answer is the reference, given at least twice.

    Two roles reached it independently. Other questions give no labels.
    """
    counts = Counter(normalize(answer) for answer, _ in _answered(attempts))
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
    """Return (answer, label) pairs, right and wrong in turn: of each as many as there are of the rarer label.

    ASL draws among the more frequent label's answers at random; here the first are taken.
    """
    right, wrong = ([answer for answer, label in labels.items() if label == wanted] for wanted in ("correct", "wrong"))
    pairs = zip(right, wrong, strict=False)
    return [pair for r, w in pairs for pair in ((r, "correct"), (w, "wrong"))]


def _answered(attempts: Sequence[Attempt]) -> list[tuple[str, tuple[str | None, ...]]]:
    """Return the answers that were given, each with its verdicts."""
    return [(attempt.answer, attempt.verdicts) for attempt in attempts if attempt.answer is not None]


def _label(right: bool) -> str:
    return "correct" if right else "wrong"


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
