"""Metrics out of a claim's result, as bench_claims.py wrote it: by seed, and over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.paper_claims.arms import Check, Term
from bench.paper_claims.statistics import Interval, mean_difference, probability_of_improvement
from bench.shared.results import Result


def scores_RK(result: Result, arm: str, number: int) -> np.ndarray:
    """Return the accuracy after a round: a row a seed, a column a number of hops."""
    return np.array([list(entry["by_hops"].values()) for entry in entries(result, arm, number)])


def entries(result: Result, arm: str, number: int) -> list[dict[str, Any]]:
    """Return a round of an arm, by seed."""
    return [run["rounds"][number] for run in result["arms"][arm]["runs"].values()]


def last_round(result: Result, arm: str) -> int:
    """Return the last round that all runs of an arm have."""
    return min(len(run["rounds"]) for run in result["arms"][arm]["runs"].values()) - 1


def differences(result: Result, check: Check) -> list[float]:
    """Return a check's sum by seed."""
    return np.sum([_values(result, term) for term in check.terms], axis=0).tolist()


def _values(result: Result, term: Term) -> list[float]:
    return [term.sign * entry[term.value] for entry in entries(result, term.arm, term.round)]


def checks(result: Result) -> list[tuple[Check, Interval]]:
    """Return a claim's checks, each with the interval of its sum."""
    read = [Check.read(check) for check in result["checks"]]
    return [(check, mean_difference(differences(result, check))) for check in read]


def better(result: Result, check: Check) -> str:
    """Return how often the first arm's run beats the second's; "-" unless a check only compares how two arms end."""
    if not (arms := check.arms()):
        return "-"
    first, second = (scores_RK(result, arm, term.round) for arm, term in zip(arms, check.terms, strict=True))
    return f"{probability_of_improvement(first, second):.0%}"


def mean_of(found: list[dict[str, Any]], key: str) -> float | None:
    """Return the mean of a metric over runs; None where a run does not have it."""
    values = [entry[key] for entry in found]
    return None if None in values else sum(values) / len(values)


def mean_sum(result: Result, arm: str, key: str) -> float:
    """Return the sum of a metric over a run's rounds, the mean over runs."""
    runs = result["arms"][arm]["runs"].values()
    return sum(entry[key] for run in runs for entry in run["rounds"]) / len(runs)
