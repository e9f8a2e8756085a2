"""Statistics over a few seeds, by hand; and why the t interval decides."""

import math

import numpy as np
import pytest

from aslfast.errors import UserError
from bench.paper_claims.statistics import (
    T_975,
    Interval,
    answer,
    answer_of_all,
    interquartile_mean,
    mean_difference,
    probability_of_improvement,
)


def test_interquartile_mean_by_hand():
    scores = np.arange(1.0, 10).reshape(3, 3)
    assert interquartile_mean(scores).value == 5  # 3 4 5 6 7
    scores[2, 2], scores[0, 0] = 1000, -1000
    assert interquartile_mean(scores).value == 5
    assert interquartile_mean(np.array([[0.0, 1], [2, 9]])).value == 1.5  # 1 2


def test_bootstrap_draws_runs_within_each_task():
    same = interquartile_mean(np.tile([0.9, 0.7, 0.5], (3, 1)))
    assert (same.low, same.value, same.high) == pytest.approx((0.7, 0.7, 0.7))  # no run differs from another
    mixed = interquartile_mean(np.array([[0.9, 0.7, 0.5], [0.8, 0.6, 0.4], [0.95, 0.75, 0.6]]))
    assert 0.6 < mixed.low < mixed.value < mixed.high < 0.75


def test_probability_of_improvement_by_hand():
    first, second = np.array([[1.0, 5], [3, 5]]), np.array([[2.0, 5], [0, 5]])
    # task 1: 1>0, 3>2, 3>0 of 4 pairs; task 2: all ties
    assert probability_of_improvement(first, second) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert probability_of_improvement(second, first) == pytest.approx(1 - 5 / 8)
    assert probability_of_improvement(first + 10, second) == 1


def test_interval_of_differences_by_hand():
    found = mean_difference([1.0, 2.0, 3.0])
    assert (found.value, found.high - 2, 2 - found.low) == pytest.approx((2, *[4.3027 / math.sqrt(3)] * 2))
    for too_few_or_many in ([1.0], [1.0] * 21):
        with pytest.raises(UserError, match="seeds give no interval"):
            mean_difference(too_few_or_many)


def test_quantiles_leave_a_fortieth_above():
    """Half of Student's density lies above 0; integrated here from 0 to the quantile it must give 0.475."""
    for degrees, quantile in enumerate(T_975, 1):
        x = np.linspace(0, quantile, 20_001)
        norm = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
        density = norm * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
        assert np.trapezoid(density, x) == pytest.approx(0.475, abs=4e-6), degrees  # four digits of the quantile


def test_with_three_seeds_the_t_interval_covers_and_the_bootstrap_does_not():
    """Why the t interval decides: scores of 100 questions each with a spread of 3 points between seeds."""
    rng, hops, trials = np.random.default_rng(0), np.array([0.9, 0.75, 0.56]), 1500

    def scores(n):
        return rng.binomial(100, np.clip(hops + rng.normal(0, 0.03, (n, 3, 1)), 0, 1)) / 100

    t = [mean_difference(run.mean(axis=1)) for run in scores(trials)]
    assert 0.93 < np.mean([i.low <= hops.mean() <= i.high for i in t]) < 0.97
    middle = np.mean(np.sort(scores(50_000).reshape(-1, 9), axis=1)[:, 2:7])
    bootstrap = [interquartile_mean(run) for run in scores(250)]
    assert 0.65 < np.mean([i.low <= middle <= i.high for i in bootstrap]) < 0.85


def test_answers_follow_from_the_interval():
    found = [answer(Interval(0, low, high)) for low, high in ((0.1, 2), (-2, -0.1), (-1, 1), (0, 0))]
    assert found == ["yes", "no", "inconclusive", "inconclusive"]
    assert [answer_of_all(a) for a in (["yes", "yes"], ["yes", "no"], ["yes", "inconclusive"])] == [
        "yes", "no", "inconclusive",
    ]  # fmt: skip


@pytest.mark.parametrize(("seeds", "spreads"), [(5, 1.7), (3, 3.3)])
def test_what_so_few_seeds_can_tell(seeds, spreads):
    """docs/results/claims2.md: a true difference of so many standard deviations is found in four of five cases."""
    drawn = np.random.default_rng(0).standard_normal((20_000, seeds)) + spreads
    low = drawn.mean(axis=1) - T_975[seeds - 2] * drawn.std(axis=1, ddof=1) / math.sqrt(seeds)
    assert (low > 0).mean() == pytest.approx(0.8, abs=0.02)
