"""The policy's rewards by name: from the judge's verdicts on its answer, or from a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aslfast.core import Trajectory
from aslfast.rewards.match import contains_match, cover_match, exact_match, f1, substring_match
from aslfast.rewards.verdicts import favourable, verdict_score


@dataclass(frozen=True, slots=True)
class AnswerEvidence:
    """An answer (None: none was given), the judge's verdicts on it, its references, and where it comes from."""

    answer: str | None
    verdicts: tuple[str | None, ...] = ()
    references: tuple[str, ...] = ()
    question: str = ""
    trajectory: Trajectory | None = None  # None where only the answer is scored


def mean_verdict(evidence: AnswerEvidence) -> float:
    """Return the mean score of the m verdicts; with m = 1 ASL's reward."""
    scores = [verdict_score(verdict) for verdict in evidence.verdicts]
    return sum(scores) / len(scores) if scores and evidence.answer is not None else 0.0


def majority_verdict(evidence: AnswerEvidence) -> float:
    """Return 1 if over half of the m verdicts are favourable; with m = 1 and a correct/wrong judge ASL's reward."""
    passed = sum(map(favourable, evidence.verdicts))
    return float(evidence.answer is not None and 2 * passed > len(evidence.verdicts))


def _rule(match: Callable[[str | None, Sequence[str]], float]) -> Callable[[AnswerEvidence], float]:
    return lambda evidence: float(match(evidence.answer, evidence.references))


def rank_of(trajectory: Trajectory, passage_id: str) -> int | None:
    """Return the rank of a passage, 1 for the best, in the first observation that has it; None where none has.

    For rewards by the rank of the gold passage, as in ConvSearch-R1 (arXiv 2505.15776).
    """
    found = [turn.passages for turn in trajectory.turns if passage_id in turn.passages]
    return found[0].index(passage_id) + 1 if found else None


def environment_reward(evidence: AnswerEvidence) -> float:
    """Return what an environment of one's own gave the trajectory."""
    return (evidence.trajectory and evidence.trajectory.environment_reward) or 0.0


ENVIRONMENT = "environment"
JUDGED: Mapping[str, Callable[[AnswerEvidence], float]] = {"majority": majority_verdict, "mean": mean_verdict}
POLICY_REWARDS: Mapping[str, Callable[[AnswerEvidence], float]] = {
    **JUDGED,
    "exact_match": _rule(exact_match),  # Search-R1
    "substring": _rule(substring_match),  # ASL's rule baseline
    "contains": _rule(contains_match),
    "cover": _rule(cover_match),
    "f1": _rule(f1),
    ENVIRONMENT: environment_reward,
}
