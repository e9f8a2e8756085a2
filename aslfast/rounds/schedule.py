"""Which tasks at which step, and when a phase has plateaued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aslfast.core import Task

LEAST_GAIN = 0.005


def chunks(tasks: Sequence[Task], size: int) -> list[list[Task]]:
    """Split tasks into steps of `size`; the last may be smaller."""
    return [list(tasks[i : i + size]) for i in range(0, len(tasks), size)]


def cycled(tasks: Sequence[Task], steps: int, size: int) -> list[list[Task]]:
    """Return `steps` steps of `size` tasks each, repeating the tasks where there are too few; none for no tasks."""
    if not tasks:
        return []
    laps = -(-steps * size // len(tasks))
    again = [replace(task, id=f"{task.id}.{lap}") for lap in range(laps) for task in tasks]  # a new id: new samples
    return chunks(again[: steps * size], size)


def plateaued(step_rewards: Sequence[float], window: int, least_gain: float = LEAST_GAIN) -> bool:
    """Return whether the mean rewards of the last `window` steps have stopped rising, over all of it and its half.

    Whole: the mean of the newer half is less than `least_gain` (relative) above that of the older half. Half: the same
    within the newer half. False before `window` steps. ASL (arXiv 2510.14253, its code): windows of 200
    and 400, least gain 0.5%. We differ: its ratio has no meaning where the older mean is 0 or less.
    """
    if window < 4 or len(step_rewards) < window:
        return False
    recent = list(step_rewards[-window:])
    return _flat(recent, least_gain) and _flat(recent[window // 2 :], least_gain)


def _flat(rewards: Sequence[float], least_gain: float) -> bool:
    half = len(rewards) // 2
    older, newer = sum(rewards[:half]) / half, sum(rewards[half:]) / (len(rewards) - half)
    return newer <= older or newer - older < least_gain * abs(older)
