"""What playing one task comes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aslfast.core import Group, Question
from aslfast.rewards import normalize
from aslfast.rollout.counters import StepCounters


@dataclass(frozen=True)
class GroupResult:
    """A task's groups, one for each role that played it, the questions that it adds to the question pool, and what its
    rollouts add up to."""

    groups: Sequence[Group]
    counters: StepCounters
    new_questions: Sequence[Question] = ()


def extended_pool(pool: Mapping[str, Question], results: Iterable[GroupResult]) -> dict[str, Question]:
    """Return the question pool with the new questions of a step; of equal ones the first stays.

    In the order of the tasks, not of completion: that depends on which trajectories run side by side.
    """
    extended = dict(pool)
    for result in results:
        for question in result.new_questions:
            extended.setdefault(normalize(question.text), question)
    return extended
