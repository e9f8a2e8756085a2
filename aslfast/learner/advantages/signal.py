"""What one trajectory is learned with, besides its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """A trajectory's advantage, and what else a loss by name needs. Arrays [L] have one number a loss token."""

    advantage: float
    advantage_L: Floats | None = None  # in place of `advantage`
    kl_weight_L: Floats | None = None  # None: 1
    success: bool | None = None
    rate: float | None = None  # share of successes in its group
    sft_weight: float | None = None  # of its negative log-likelihood, which is added to the loss


def as_signals(advantages: Sequence[float | Signal]) -> list[Signal]:
    """Return signals as they are, and advantages alone as signals."""
    return [value if isinstance(value, Signal) else Signal(float(value)) for value in advantages]
