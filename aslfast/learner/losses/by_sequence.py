"""Sums and means over the loss tokens of each trajectory, at each token's place."""

from __future__ import annotations

from torch import Tensor


def sequence_sum(value_L: Tensor, sequence_L: Tensor) -> Tensor:
    """Return, at each token's place, the sum over its trajectory; `sequence_L` counts from 0."""
    total_S = value_L.new_zeros(sequence_L.bincount().shape).index_add(0, sequence_L, value_L)
    return total_S[sequence_L]


def sequence_mean(value_L: Tensor, sequence_L: Tensor) -> Tensor:
    """Return, at each token's place, the mean over its trajectory."""
    return sequence_sum(value_L, sequence_L) / sequence_L.bincount()[sequence_L]


def aggregated(value_L: Tensor, sequence_L: Tensor, aggregate: str, normalizer: float) -> Tensor:
    """Return the sum over tokens, or for "sequence_mean" of the means over trajectories, over the normalizer."""
    if aggregate == "sequence_mean":
        value_L = value_L / sequence_L.bincount()[sequence_L]
    return value_L.sum() / normalizer
