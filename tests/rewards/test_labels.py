"""Labels for the judge by their source, balanced tasks, and when a phase has stopped to gain."""

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aslfast import rewards
from aslfast.rounds.schedule import plateaued

VERDICTS = st.lists(st.sampled_from(["correct", "wrong", None]), min_size=1, max_size=12)


def attempts(*attempted):
    return [rewards.Attempt(answer, tuple(verdicts)) for answer, *verdicts in attempted]


def test_self_labels():
    """The first verdict that takes a side on an answer; grades take one too."""
    attempted = attempts(
        ("Oslo", None), ("Oslo", "uncertain", "wrong"), ("Oslo", "correct"), ("Rome", "C"), ("Kiel", "D"), ("Bonn",)
    )  # fmt: skip
    labels = rewards.LABELS["self"](attempted, "Oslo")
    assert labels == {"Oslo": "wrong", "Rome": "correct", "Kiel": "wrong"}


def test_labels_from_real_data():
    assert rewards.gold_labels(["the Oslo", "Rome", "Kristiania"], ["Oslo", "Kristiania"]) == {
        "the Oslo": "correct", "Rome": "wrong", "Kristiania": "correct",
    }  # fmt: skip


@pytest.mark.parametrize("source", rewards.LABELS)
@given(attempted=st.lists(st.tuples(st.sampled_from(["Oslo", "oslo!", "Rome", "Kiel"]), VERDICTS), max_size=8))
def test_balanced_tasks(source, attempted):
    """As many right as wrong for every question, from the labels alone, each answer once."""
    labels = rewards.LABELS[source](attempts(*((answer, *verdicts) for answer, verdicts in attempted)), "Oslo")
    assert set(labels.values()) <= {"correct", "wrong"} and set(labels) <= {answer for answer, _ in attempted}
    chosen = rewards.balanced(labels)
    counts = Counter(label for _, label in chosen)
    assert counts["correct"] == counts["wrong"] == min(Counter(labels.values())[x] for x in ("correct", "wrong"))
    assert len(dict(chosen)) == len(chosen) and all(labels[answer] == label for answer, label in chosen)


def test_plateau():
    rising = [i / 100 for i in range(200)]
    assert not plateaued(rising, 200) and not plateaued([0.5] * 199, 200)
    assert plateaued([0.5] * 200, 200) and plateaued(rising + [2.0] * 200, 200)
    assert not plateaued([0.5] * 100 + [0.6] * 100, 200)  # long window
    assert not plateaued([0.6] * 100 + [0.4] * 50 + [0.6] * 50, 200)  # short window alone
    assert plateaued([0.0] * 8, 8) and plateaued([-1.0] * 8, 8) and not plateaued([], 8)
    for gain, ended in ((0.0049, True), (0.0051, False)):
        assert plateaued([1.0] * 100 + [1.0 + gain] * 100, 200) is ended


@given(st.lists(st.floats(0.1, 2), min_size=8, max_size=8), st.floats(0.5, 4))
def test_a_plateau_is_one_at_any_scale(steps, scale):
    """The rule is relative: rewards of another unit end the phase at the same step. Written out a second way."""
    older, newer, short_older, short_newer = (sum(steps[a:b]) / (b - a) for a, b in ((0, 4), (4, 8), (4, 6), (6, 8)))
    long_gain, short_gain = newer / older - 1, short_newer / short_older - 1
    assume(min(abs(long_gain - 0.005), abs(short_gain - 0.005)) > 1e-9)
    assert plateaued(steps, 8) == (long_gain < 0.005 and short_gain < 0.005)
    assert plateaued([scale * step for step in steps], 8) == plateaued(steps, 8)
