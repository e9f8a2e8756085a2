"""What a phase of one's own changes between playing and learning: what is recorded of it, and how much it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from aslfast.core import Group, Reward, Trajectory

# tells the trajectories of a step apart: of a task's equal ones, the first, the second, ...
_Key: TypeAlias = tuple[str, tuple[int, ...], int]


def revised_groups(played: Sequence[Group], revised: Sequence[Group]) -> list[Group]:
    """Return the groups that were played, their trajectories and rewards as revised; what was left out stays as it was.

    So each trajectory of a run is recorded once, in the step that played it: replayed ones are not.
    """
    if revised is played:
        return list(played)
    last = dict(zip(_keys(revised), _pairs(revised), strict=True))
    before = iter(_keys(played))
    groups: list[Group] = []
    for group in played:
        own = [last.get(next(before), pair) for pair in _pairs([group])]
        groups.append(Group(tuple(t for t, _ in own), tuple(r for _, r in own), group.failed))
    return groups


def revision_counts(played: Sequence[Group], revised: Sequence[Group]) -> Mapping[str, int]:
    """Return how many trajectories to learn from were replayed, and how many played ones were left out."""
    if revised is played:
        return {}
    before, after = _keys(played), _keys(revised)
    return {"replayed": len(set(after) - set(before)), "left_out": len(set(before) - set(after))}


def _pairs(groups: Sequence[Group]) -> list[tuple[Trajectory, Reward]]:
    return [pair for group in groups for pair in zip(group.trajectories, group.rewards, strict=True)]


def _keys(groups: Sequence[Group]) -> list[_Key]:
    seen: Counter[tuple[str, tuple[int, ...]]] = Counter()
    keys: list[_Key] = []
    for trajectory, _ in _pairs(groups):
        key = trajectory.task.id, trajectory.token_ids
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys
