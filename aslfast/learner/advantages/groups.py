"""Which of a step's groups count, and a factor for each advantage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aslfast.config.own_parts import rescale_rule
from aslfast.core import Group


def std_of(group: Group) -> float:
    """Return the population's standard deviation of a group's rewards, exactly 0 where all are equal."""
    totals = [reward.total for reward in group.rewards]
    return float(np.std(totals)) if len(set(totals)) > 1 else 0.0


def keep_groups(groups: Sequence[Group], share: float) -> list[Group]:
    """Return the groups with a trajectory; of these, the int(share G) of the largest std, one at least, in their order.

    SPEAR (arXiv 2509.22601) keeps 75%; among equal ones the first stay.
    """
    played = [group for group in groups if group.trajectories]
    if share == 1.0:
        return played
    order = sorted(range(len(played)), key=lambda i: -std_of(played[i]))
    return [played[i] for i in sorted(order[: max(1, int(share * len(played)))])]


def factors(groups: Sequence[Group], advantages: Sequence[float], rescale: str) -> list[float]:
    """Return what each trajectory's advantages are multiplied by.

    "usable_groups": groups / groups of unequal rewards (RAPO of Fathom-DeepResearch, arXiv 2509.24107), so that groups
    that teach nothing do not shrink the step. Another name: a function of one's own. Raise UserError for what it does
    wrong.
    """
    if not rescale:
        return [1.0] * len(advantages)
    if rescale == "usable_groups":
        usable = sum(std_of(group) > 0 for group in groups)
        return [len(groups) / usable if usable else 1.0] * len(advantages)
    rewards = [reward.total for group in groups for reward in group.rewards]
    places = [place for place, group in enumerate(groups) for _ in group.rewards]
    outputs = [trajectory.output or "" for group in groups for trajectory in group.trajectories]
    return rescale_rule(rescale)(list(advantages), rewards, places, outputs)
