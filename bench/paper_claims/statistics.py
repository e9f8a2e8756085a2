"""What a few seeds say of an arm, and of one arm against another.

Scores are a matrix of runs by tasks: a run is a seed, its tasks are the questions of 1, 2 and 3 hops. A mean over three
numbers cannot leave any out; over seeds x hops the interquartile mean leaves out what went oddly well or badly, as in
the paper that proposes it.

There are two intervals, for two purposes. The stratified bootstrap is the usual one for an interquartile mean, but with
three runs it is too narrow: simulated for scores like the lab's, a nominal 95% covers 72 to 78% with 3 seeds, 79 to 85%
with 5. It shows an arm. The t interval of paired differences over seeds covers 94 to 96% there, so it alone decides
whether arms differ. Arms are paired by seed: the same world, the same held-out questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aslfast.errors import UserError
from aslfast.metrics.bootstrap import RESAMPLES

# 97.5% quantiles of Student's t for 1, 2, ... degrees of freedom
T_975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930,
)  # fmt: skip
YES, NO, INCONCLUSIVE = "yes", "no", "inconclusive"


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores_RK: np.ndarray) -> Interval:
    """Return the mean of the middle half of all n scores of R runs on K tasks: floor(n / 4) left out at either end.

    With its stratified bootstrap interval: runs are drawn with replacement, task by task, 10,000 times, the percentiles
    2.5 and 97.5 (Agarwal et al. 2021, arXiv 2108.13264; their package rliable).
    """
    scores_RK = np.asarray(scores_RK, dtype=float)
    rng, (runs, tasks) = np.random.default_rng(0), scores_RK.shape
    drawn = scores_RK[rng.integers(0, runs, (RESAMPLES, runs, tasks)), np.arange(tasks)]
    low, high = np.quantile(_middle_mean(drawn.reshape(RESAMPLES, -1)), (0.025, 0.975))
    return Interval(float(_middle_mean(scores_RK.reshape(1, -1))[0]), float(low), float(high))


def _middle_mean(scores_BN: np.ndarray) -> np.ndarray:
    n = scores_BN.shape[1]
    return np.sort(scores_BN, axis=1)[:, n // 4 : n - n // 4].mean(axis=1)


def probability_of_improvement(first_RK: np.ndarray, second_RK: np.ndarray) -> float:
    """Return how often a run of the first arm beats a run of the second on a task.

    The mean over tasks of (pairs with x > y + half of those with x = y) / pairs, over all pairs of runs (Agarwal et al.
    2021).
    """
    above = np.sign(np.asarray(first_RK)[:, None] - np.asarray(second_RK)[None])
    return float((above + 1).mean() / 2)


def mean_difference(differences: Sequence[float]) -> Interval:
    """Return m -+ t s / sqrt(n) for n paired differences of mean m and standard deviation s.

    s divides by n - 1; t is Student's 97.5% quantile of n - 1 degrees of freedom (Student 1908). Raise UserError for
    fewer than 2 or more than 20 differences.
    """
    n = len(differences)
    if not 2 <= n <= len(T_975) + 1:
        raise UserError(f"{n} seeds give no interval; run 2 to {len(T_975) + 1} of them (--seeds 0 1 2)")
    mean = sum(differences) / n
    half = T_975[n - 2] * math.sqrt(sum((x - mean) ** 2 for x in differences) / (n - 1) / n)
    return Interval(mean, mean - half, mean + half)


def answer(difference: Interval) -> str:
    """Return whether a check is supported: the one rule for it."""
    if difference.low > 0:
        return YES
    return NO if difference.high < 0 else INCONCLUSIVE


def answer_of_all(answers: Sequence[str]) -> str:
    """Return whether a claim is supported: yes if all its checks are, no if one is not, else inconclusive."""
    if NO in answers:
        return NO
    return YES if set(answers) == {YES} else INCONCLUSIVE
