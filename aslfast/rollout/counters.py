"""Totals over the rollouts of one group, or of one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class StepCounters:
    """Counts over all roles that sample for a group; those of a step are the sum over its groups."""

    sampled_tokens: int = 0
    tool_failed: int = 0  # trajectories
    verdicts: int = 0  # requested for answers, self checks not counted
    verdicts_reused: int = 0  # of those, shared with an equal answer

    @classmethod
    def total(cls, parts: Iterable[StepCounters]) -> StepCounters:
        """Return the sum of several counters."""
        whole = cls()
        for part in parts:
            whole.sampled_tokens += part.sampled_tokens
            whole.tool_failed += part.tool_failed
            whole.verdicts += part.verdicts
            whole.verdicts_reused += part.verdicts_reused
        return whole
