"""Scores against the ground truth, references or the lab's oracle: never against what the roles say of each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aslfast import rewards
from aslfast.core import Trajectory
from aslfast.metrics.health import Oracle

Z95 = 1.959964  # standard deviations to each side hold 95% of a normal distribution

Scores = dict[str, object]  # by name, as JSON can hold them


@dataclass(frozen=True, slots=True)
class Proportion:
    """A fraction of n with its 95% Wilson interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, hits: float, n: int) -> Proportion:
        """Return hits / n with its interval; [0, 1] for n = 0.

        Wilson 1927: centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n).
        """
        if n == 0:
            return cls(0.0, 0.0, 1.0, 0)
        p, z2 = hits / n, Z95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return cls(p, max(0.0, centre - half), min(1.0, centre + half), n)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


METRICS: Mapping[str, Callable[[str | None, Sequence[str]], float]] = {
    "em": rewards.exact_match,
    "sub_em": rewards.substring_match,
    "cover_em": rewards.cover_match,
    "f1": rewards.f1,
}


def question_scores(trajectories: Sequence[Trajectory]) -> dict[str, list[float]]:
    """Return the score of each question by each metric, and how often the policy searched for it."""
    scores = {
        name: [float(metric(t.output, t.task.references)) for t in trajectories] for name, metric in METRICS.items()
    }
    return {**scores, "searches": [float(t.tool_calls) for t in trajectories]}


def policy_scores(trajectories: Sequence[Trajectory]) -> Scores:
    """Return exact match (the accuracy), containment and F1 over the trajectories' references; accuracy by hops too.

    A task without references, in an environment of one's own, is solved by a reward of at least 1.
    """
    hits = [_is_right(t) for t in trajectories]
    by_hops = {}
    for hops in sorted({t.task.hops for t in trajectories} - {0}):
        own = [hit for hit, t in zip(hits, trajectories, strict=True) if t.task.hops == hops]
        by_hops[str(hops)] = _accuracy(Proportion.of(sum(own), len(own)))
    n, stops = len(trajectories), [t.stop.value for t in trajectories]
    return {
        "policy_accuracy": sum(hits) / n,
        "policy_interval": _interval(Proportion.of(sum(hits), n)),
        "by_hops": by_hops,
        "contains": sum(rewards.contains_match(t.output, t.task.references) for t in trajectories) / n,
        "f1": sum(rewards.f1(t.output, t.task.references) for t in trajectories) / n,
        "searches": sum(t.tool_calls for t in trajectories) / n,
        "n_eval": n,
        "stops": {stop: stops.count(stop) for stop in sorted(set(stops))},
        **_environment_scores(trajectories),
    }


def _is_right(trajectory: Trajectory) -> bool:
    if trajectory.environment_reward is None or trajectory.task.references:
        return rewards.exact_match(trajectory.output, trajectory.task.references)
    return trajectory.environment_reward >= 1.0


def _environment_scores(trajectories: Sequence[Trajectory]) -> Scores:
    """Return the mean of the rewards that an environment of one's own gave; nothing where it gave none."""
    given = [t.environment_reward for t in trajectories if t.environment_reward is not None]
    return {"environment_reward": sum(given) / len(given)} if given else {}


def grm_scores(trajectories: Sequence[Trajectory]) -> Scores:
    """Return the balanced accuracy: the mean of the fractions of right and of wrong answers that are judged as such.

    verdict_bias: the mean of the fractions of right and of wrong answers that are called correct, less 1/2.
    """
    rates, passed = {}, 0.0
    for label in ("correct", "wrong"):
        own = [rewards.as_label(t.output) for t in trajectories if t.task.references == (label,)]
        rates[label] = Proportion.of(own.count(label), len(own))
        passed += Proportion.of(own.count("correct"), len(own)).value / 2
    balanced = (rates["correct"].value + rates["wrong"].value) / 2
    interval = _interval(Proportion.of(balanced * len(trajectories), len(trajectories)))
    return {
        "grm_accuracy": balanced,
        "grm_interval": interval,
        "grm_true_positive_rate": rates["correct"].value,
        "grm_true_negative_rate": rates["wrong"].value,
        "verdict_bias": passed - 0.5,
    }


def generator_scores(trajectories: Sequence[Trajectory], oracle: Oracle) -> Scores:
    """Return solvable_share: the fraction of tasks whose question the oracle can solve and whose reference is right."""
    valid = [t for t in trajectories if t.output is not None and rewards.valid_question(t.output)]
    right = sum(rewards.exact_match(t.output_answer, rewards.spellings(oracle(t.output or ""))) for t in valid)
    n = len(trajectories)
    return {
        "solvable_share": right / n,
        "solvable_interval": _interval(Proportion.of(right, n)),
        "valid_share": len(valid) / n,
        "reference_right": right / len(valid) if valid else 0.0,
    }


def _interval(proportion: Proportion) -> list[float]:
    return [proportion.low, proportion.high]


def _accuracy(proportion: Proportion) -> dict[str, float]:
    """Return a proportion as JSON data."""
    return {"accuracy": proportion.value, "low": proportion.low, "high": proportion.high, "n": proportion.n}
