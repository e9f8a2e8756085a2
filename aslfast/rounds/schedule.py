"""Which tasks at which step, which setting in which round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from aslfast.core import Task

T = TypeVar("T")


def by_round(values: Sequence[T], number: int) -> T:
    """The setting of a round, the first being 1; the last one holds for all that follow."""
    return values[min(number, len(values)) - 1]


def chunks(tasks: Sequence[Task], size: int) -> list[list[Task]]:
    return [list(tasks[i : i + size]) for i in range(0, len(tasks), size)]


def cycled(tasks: Sequence[Task], steps: int, size: int) -> list[list[Task]]:
    """`steps` steps of `size` tasks each, going round where there are fewer; none where there are none."""
    if not tasks:
        return []
    laps = -(-steps * size // len(tasks))
    again = [replace(task, id=f"{task.id}.{lap}") for lap in range(laps) for task in tasks]  # a new id: new samples
    return chunks(again[: steps * size], size)
