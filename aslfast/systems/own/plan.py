"""What a phase of one's own comes to, before it is run. Loads no torch."""

from __future__ import annotations

from aslfast.config import RunConfig
from aslfast.plugins import name_in
from aslfast.systems.phase_plan import PhasePlan


def own_plan(config: RunConfig, path: str) -> list[PhasePlan]:
    """Return what the phase comes to. How many trajectories a play has is its own affair: one at least."""
    own, name = config.own_phase_of(path), name_in(path)
    what = f"{own.tasks_per_step} tasks x {own.group_size} plays by {path}"
    return [PhasePlan(name, own.steps, own.tasks_per_step * own.group_size, what, own.learn, at_least=True)]
