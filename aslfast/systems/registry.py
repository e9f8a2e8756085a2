"""The phases that a recipe names: shipped ones, by name, and those of one's own, by import path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aslfast.config import RunConfig
from aslfast.plugins import is_import_path
from aslfast.systems.asl.plan import asl_plan
from aslfast.systems.own.plan import own_plan
from aslfast.systems.phase_plan import PhasePlan

if TYPE_CHECKING:
    from aslfast.rounds.phase import Phase


def plan_of(config: RunConfig) -> list[PhasePlan]:
    """Return what the phases of a round come to, in the recipe's order. Loads no torch."""
    names = config.round_phases
    return [plan for name in names for plan in (own_plan if is_import_path(name) else asl_plan)(config, name)]


def phases_of(config: RunConfig) -> list[Phase]:
    """Return the phases of a round in the recipe's order. Raise UserError."""
    from aslfast.systems.asl.phases import asl_phases
    from aslfast.systems.own.phases import own_phases

    names = config.round_phases
    return [phase for name in names for phase in (own_phases if is_import_path(name) else asl_phases)(config, name)]
