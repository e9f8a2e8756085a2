"""Totals over the rollouts of one group, or of one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class StepCounters:
    """Counts over all roles that sample for a group; those of a step are the sum over its groups."""

    sampled_tokens: int = 0
    tool_failed: int = 0  # trajectories
    verdicts: int = 0  # requested for answers, self checks not counted
    verdicts_reused: int = 0  # of those, shared with an equal answer
    failed_checks: dict[str, int] = field(default_factory=dict)  # acts by the check that they failed

    def count_failed(self, check: str, count: int = 1) -> None:
        """Count acts that failed a check."""
        self.failed_checks[check] = self.failed_checks.get(check, 0) + count

    @classmethod
    def total(cls, parts: Iterable[StepCounters]) -> StepCounters:
        """Return the sum of several counters."""
        whole = cls()
        for part in parts:
            whole.sampled_tokens += part.sampled_tokens
            whole.tool_failed += part.tool_failed
            whole.verdicts += part.verdicts
            whole.verdicts_reused += part.verdicts_reused
            for name, count in part.failed_checks.items():
                whole.count_failed(name, count)
        return whole
