"""What a phase comes to, before it is run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """One phase of one round. per_step: most trajectories of one optimizer step, all roles together; of a phase of
    one's own the least, since only its plays tell how many they have."""

    name: str
    steps: int
    per_step: int
    what: str
    learn: bool
    at_least: bool = False  # per_step
