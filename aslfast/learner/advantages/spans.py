"""Spans of a trajectory -> values of its loss tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aslfast.core import Trajectory
from aslfast.learner.advantages.signal import Floats
from aslfast.learner.batch import loss_positions


def token_advantages(trajectory: Trajectory, advantage: float, by_span: Sequence[float]) -> Floats:
    """Return the advantage of each loss token [L]: the trajectory's plus those of all spans that it is in."""
    positions = loss_positions(trajectory)
    found = np.full(len(positions), advantage)
    for span, value in zip(trajectory.spans, by_span, strict=True):
        found[(positions >= span.start) & (positions < span.end)] += value
    return found


def token_kl_weights(trajectory: Trajectory) -> Floats | None:
    """Return the KL weight of each loss token [L]: the product of those of all spans that it is in; None: all are 1."""
    if all(span.kl_weight == 1 for span in trajectory.spans):
        return None
    positions = loss_positions(trajectory)
    found = np.ones(len(positions))
    for span in trajectory.spans:
        found[(positions >= span.start) & (positions < span.end)] *= span.kl_weight
    return found
