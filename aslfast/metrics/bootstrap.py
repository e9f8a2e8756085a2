"""How certain a mean over questions is: bootstrap intervals and paired tests, which resample the questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
_AT_ONCE = 2_000_000  # numbers in memory


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over n questions with its 95% interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences with its 95% interval, and p: how often chance alone gives one as large."""

    value: float
    low: float
    high: float
    p: float


def bootstrap_mean(values: Sequence[float], seed: int) -> Mean:
    """Return the mean with the percentile interval over 10,000 draws of n questions with replacement (Efron 1979).

    The interval has no width where all values are the same.
    """
    drawn = np.asarray(values, dtype=float)
    low, high = _percentiles(drawn, seed)
    return Mean(float(drawn.mean()), low, high, len(drawn))


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int) -> Difference:
    """Return the mean of second - first, question by question, with its bootstrap interval and p.

    p is that of the two-sided sign-flip permutation test (Edgington 1969):
    (1 + times |mean of randomly signed differences| >= |mean|) / (1 + 10,000).
    """
    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    low, high = _percentiles(difference, seed)
    rng, n, mean = np.random.default_rng((seed, 1)), len(difference), float(difference.mean())
    as_large = 0
    for count in _chunks(n):
        signs = rng.integers(0, 2, (count, n), dtype=np.int8) * 2 - 1
        as_large += int((np.abs(signs @ difference) / n >= abs(mean) - 1e-12).sum())
    return Difference(mean, low, high, (1 + as_large) / (1 + RESAMPLES))


def _percentiles(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 2.5% and 97.5% quantiles of the resampled means."""
    rng, n = np.random.default_rng((seed, 0)), len(values)
    means = [values[rng.integers(0, n, (count, n))].mean(axis=1) for count in _chunks(n)]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def _chunks(n: int) -> list[int]:
    """Return how many resamples of n values to make at once, in turn; RESAMPLES in all."""
    size = max(1, min(RESAMPLES, _AT_ONCE // n))
    return [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
