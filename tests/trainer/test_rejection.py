"""Rejection sampling: which of several trajectories of a question is kept."""

import pytest

from aslfast.core import StopReason, Task, Trajectory
from aslfast.trainer.sft.rejection import kept_records


def answered(question, answer):
    stop = StopReason.FINISHED if answer else StopReason.NO_OUTPUT
    return Trajectory(Task(question, "policy", "p", question, ("Oslo town",)), (1,), (1,), (-1.0,), (), stop, answer)


GROUPS = [
    [answered("a", None), answered("a", "Oslo"), answered("a", "the Oslo town!")],  # the last is an exact match
    [answered("b", "Rome"), answered("b", "town Oslo"), answered("b", "Oslo")],  # F1 1, but no exact match
    [answered("c", "Rome"), answered("c", None), answered("c", "Bern")],  # nothing right
    [answered("d", "Oslo town"), answered("d", "oslo town"), answered("d", None)],  # of equals the first
]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [("best", ["the Oslo town!", "town Oslo", "Oslo town"]), ("correct", ["the Oslo town!", "Oslo town"])],
)
def test_the_best_of_each_question_is_kept(keep, kept):
    records = list(kept_records([t for group in GROUPS for t in group], 3, keep))
    assert [record.trajectory.output for record in records] == kept
    assert [record.reward.total for record in records] == [1.0] * len(kept)


def test_a_part_of_an_answer_is_worth_its_f1():
    (record,) = kept_records([answered("a", None), answered("a", "Oslo")], 2, "best")
    assert record.trajectory.output == "Oslo" and record.reward.parts == {"f1": pytest.approx(2 / 3)}
