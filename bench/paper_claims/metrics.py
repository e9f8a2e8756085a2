"""Metrics out of a claim's result, as bench_claims.py wrote it: by seed, and over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aslfast.errors import UserError
from bench.paper_claims.arms import VALUES, Check, Term
from bench.paper_claims.moments import QUARTERS, Get, Moment, Round
from bench.paper_claims.statistics import Interval, mean_difference, probability_of_improvement
from bench.shared.results import Result


def moments(result: Result, arm: str) -> list[Moment]:
    """Return when an arm is shown: after each round that all its runs have, or at each quarter of the budget."""
    if result.get("budget"):
        return [Moment(number, of_budget=True) for number in QUARTERS]
    return [Moment(number) for number in range(min(map(len, _runs(result, arm))))]


def scores_RK(result: Result, arm: str, at: Moment) -> np.ndarray:
    """Return the accuracy: a row a seed, a column a number of hops."""
    hops = _runs(result, arm)[0][0]["by_hops"]
    return np.array([values(result, arm, at, lambda entry, hop=hop: entry["by_hops"].get(hop)) for hop in hops]).T


def values(result: Result, arm: str, at: Moment, get: str | Get) -> list[float | None]:
    """Return a value of an arm by seed. get: its key, or what returns it of a round."""
    read = (lambda entry: entry.get(get)) if isinstance(get, str) else get
    return [at.value(rounds, read, result.get("budget")) for rounds in _runs(result, arm)]


def _runs(result: Result, arm: str) -> list[list[Round]]:
    return [run["rounds"] for run in result["arms"][arm]["runs"].values()]


def differences(result: Result, check: Check) -> list[float]:
    """Return a check's sum by seed."""
    return np.sum([_values(result, term) for term in check.terms], axis=0).tolist()


def _values(result: Result, term: Term) -> list[float]:
    found = values(result, term.arm, term.at, VALUES[term.value])
    if None in found:
        raise UserError(f"claim {result['claim']}: a run of {term.arm} has no {term.value} at {term.at.number}")
    return [term.sign * value for value in found if value is not None]


def checks(result: Result) -> list[tuple[Check, Interval]]:
    """Return a claim's checks, each with the interval of its sum."""
    read = [Check.read(check) for check in result["checks"]]
    return [(check, mean_difference(differences(result, check))) for check in read]


def better(result: Result, check: Check) -> str:
    """Return how often the first arm's run beats the second's; "-" unless a check only compares how two arms end."""
    if not (arms := check.arms()):
        return "-"
    first, second = (scores_RK(result, arm, term.at) for arm, term in zip(arms, check.terms, strict=True))
    return f"{probability_of_improvement(first, second):.0%}"


def mean_of(found: Sequence[float | None]) -> float | None:
    """Return the mean over runs; None where a run has no such value."""
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if len(known) == len(found) else None


def mean_sum(result: Result, arm: str, key: str) -> float:
    """Return the sum of a metric over a run's rounds, the mean over runs."""
    runs = result["arms"][arm]["runs"].values()
    return sum(entry[key] for run in runs for entry in run["rounds"]) / len(runs)
