"""Rejection sampling: of several trajectories of a question, the one to learn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aslfast.core import Reward, Trajectory
from aslfast.data.trajectories import Record
from aslfast.rewards.match import exact_match, f1

KEEP = ("best", "correct")


def scored(trajectory: Trajectory) -> tuple[bool, float]:
    """Return whether the answer is an exact match, and its F1."""
    references = trajectory.task.references
    return exact_match(trajectory.output, references), f1(trajectory.output, references)


def kept_records(trajectories: Sequence[Trajectory], samples: int, keep: str) -> Iterator[Record]:
    """Yield the best trajectory of each question, `samples` in a row, with its F1 as the reward.

    The best is an exact match, else has the largest F1; of equals the first. "best": of each question that one sample
    answered at all; "correct": of those with an exact match.
    """
    for start in range(0, len(trajectories), samples):
        best = max(trajectories[start : start + samples], key=scored)
        right, score = scored(best)
        if right or (keep == "best" and score > 0):
            yield Record(best, Reward({"f1": score}))
