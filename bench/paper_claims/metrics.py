"""Figures out of a claim's JSON, as claims.py wrote it: seed by seed, and over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.paper_claims.arms import Check, Term
from bench.paper_claims.statistics import Interval, mean_difference, probability_of_improvement

Result = Mapping[str, Any]


def scores_RK(result: Result, arm: str, number: int) -> np.ndarray:
    """True accuracy after a round: a row a seed, a column a number of hops."""
    return np.array([list(entry["by_hops"].values()) for entry in entries(result, arm, number)])


def entries(result: Result, arm: str, number: int) -> list[dict[str, Any]]:
    """A round of an arm, seed by seed."""
    return [run["rounds"][number] for run in result["arms"][arm]["runs"].values()]


def last_round(result: Result, arm: str) -> int:
    return min(len(run["rounds"]) for run in result["arms"][arm]["runs"].values()) - 1


def differences(result: Result, check: Check) -> list[float]:
    """A check's sum, seed by seed."""
    return np.sum([_values(result, term) for term in check.terms], axis=0).tolist()


def _values(result: Result, term: Term) -> list[float]:
    return [term.sign * entry[term.value] for entry in entries(result, term.arm, term.round)]


def checks(result: Result) -> list[tuple[Check, Interval]]:
    read = [Check.read(check) for check in result["checks"]]
    return [(check, mean_difference(differences(result, check))) for check in read]


def better(result: Result, check: Check) -> str:
    """How often the first arm's run beats the second's, for a check that only compares how two arms end."""
    if not (arms := check.arms()):
        return "-"
    first, second = (scores_RK(result, arm, term.round) for arm, term in zip(arms, check.terms, strict=True))
    return f"{probability_of_improvement(first, second):.0%}"


def mean_of(found: list[dict[str, Any]], key: str) -> float | None:
    """None where a run has no such figure."""
    values = [entry[key] for entry in found]
    return None if None in values else sum(values) / len(values)


def mean_sum(result: Result, arm: str, key: str) -> float:
    """Summed over the rounds of a run, the mean over runs."""
    runs = result["arms"][arm]["runs"].values()
    return sum(entry[key] for run in runs for entry in run["rounds"]) / len(runs)
