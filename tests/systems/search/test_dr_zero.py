"""Dr. Zero: f, d and HRPO against numbers by hand, and a round in which both roles learn and the tester does not."""

import pytest

from aslfast.config import load_recipe
from aslfast.core import Group, Reward
from aslfast.learner.advantage import lesson
from aslfast.systems.search import dr_zero
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.turns import act, said, search, seen

SMALL = [
    "own_phase.DrZeroProposer.tasks_per_step=6", "own_phase.DrZeroProposer.group_size=1",
    "own_phase.DrZeroProposer.options.tries=4", "own_phase.DrZeroSolver.tasks_per_step=3",
    "own_phase.DrZeroSolver.group_size=1", "own_phase.DrZeroSolver.steps=1", "sampler.max_turns=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return play_small("dr-zero-tiny", tmp_path_factory.mktemp("dr-zero") / "run", SMALL)


@pytest.mark.parametrize(("k", "d"), [(0, 0.0), (1, 1.0), (2, 0.75), (3, 0.5), (4, 0.25), (5, 0.0)])
def test_difficulty(k, d):
    assert dr_zero.share_failed([True] * k + [False] * (5 - k)) == d


CLOSED = said("<think>so</think><question>Which town?</question><answer>Oslo</answer>")
SEVEN = "the old town by the long river"


@pytest.mark.parametrize(
    ("turns", "hops", "answer", "f"),
    [
        ([search("Norway"), seen("Oslo is its capital"), CLOSED], 2, "Oslo", 1.0),
        ([CLOSED], 1, "Norway", 1.0),  # in the passage
        ([CLOSED], 1, "Rome", 0.75),  # nowhere
        ([CLOSED], 1, "Yes", 1.0),
        ([CLOSED], 2, "Norway", 0.875),  # tool 1/2
        ([search("x"), seen(SEVEN), said("no thought")], 3, SEVEN, (1 + 1 / 2 + 2 / 3 + 1 / 2) / 4),
        ([CLOSED], 1, "town", 0.0),  # stands in the question
        ([CLOSED], 1, None, 0.0),
    ],
)
def test_form(turns, hops, answer, f):
    asked = act(*turns, role="generator", output="Which town?" if answer else None, answer=answer)
    assert dr_zero.form(asked, hops, "Norway is cold.") == pytest.approx(f)


def test_questions_of_as_many_hops_are_compared():
    config = load_recipe("dr-zero")
    rewards = [(1, 1.0), (2, 0.9), (1, 0.5)]  # by hops: mean 0.75, std 0.25; and one alone
    groups = [Group.of([(act(said("x"), role="generator", hops=h), Reward({"r": r}))]) for h, r in rewards]
    taught = lesson(groups, config.advantage_of("generator"), config.loss)
    assert [s.advantage for s in taught.signals] == pytest.approx([1.0, 0.9, -1.0], abs=1e-4)


def play_of(row):
    return row["step"], row["task_id"].rpartition(".")[0]


def test_the_proposer_earns_by_the_tries_of_the_solver_before(whole):
    asked = [row for row in whole.rows if row["role"] == "generator" and "difficulty" in row["reward_parts"]]
    tries = [row for row in whole.rows if row["role"] == "tester"]
    assert len(asked) == 12 and tries and {row["adapter_version"] for row in tries} == {tries[0]["adapter_version"]}
    for row in asked:
        k = [one["reward"] for one in tries if play_of(one) == play_of(row)]
        assert len(k) == (4 if row["reward_parts"]["format"] else 0)
        assert row["reward_parts"]["difficulty"] == pytest.approx((4 - sum(k)) / 3 if 0 < sum(k) < 4 else 0.0)
        assert {one["question"] for one in tries if play_of(one) == play_of(row)} <= {row["output"]}


def test_both_learn_and_the_tester_does_not(whole):
    assert whole.moved == {"generator", "policy"}
    answers = [row for row in whole.rows if row["role"] == "policy"]
    assert len(answers) % 5 == 0 and 0 < len({row["question"] for row in answers}) <= 3
    assert [line["phase"] for line in whole.lines] == ["DrZeroProposer", "DrZeroProposer", "DrZeroSolver"]


def test_a_resume_changes_no_bit(whole, tmp_path):
    assert play_killed("dr-zero-tiny", tmp_path / "run", SMALL).same_as(whole)
