"""Which rewards are compared with each other: the key of a trajectory's group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aslfast.config.own_parts import group_key
from aslfast.core import Group, Task

# Of a task and its place among the step's groups. HRPO (Dr. Zero, arXiv 2601.07055) groups by hops, SPIRAL
# (2506.24119) by player, which here is a role: two judges are two. Roles are never mixed, so that the last three are
# one and the same.
KEYS: dict[str, Callable[[Task, int], str]] = {
    "prompt": lambda _, place: str(place),
    "hops": lambda task, _: str(task.hops),
    "role": lambda task, _: task.role,
    "player": lambda task, _: task.role,
    "batch": lambda _, __: "",
}


def keys_of(groups: Sequence[Group], group_by: str) -> list[str]:
    """Return the key of each trajectory, group by group. Another role's trajectories are never in the same group."""
    own = None if group_by in KEYS else group_key(group_by)
    found = []
    for place, group in enumerate(groups):
        for task in (t.task for t in group.trajectories):
            found.append(f"{task.role}/{own(task) if own else KEYS[group_by](task, place)}")
    return found
