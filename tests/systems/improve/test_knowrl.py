"""KnowRL: agreement of verdicts, the question's reward, the pool, and a round in the lab."""

import random

import pytest

from aslfast.config import load_recipe
from aslfast.core import Question
from aslfast.systems.improve.knowrl import KnowRL, agreed, as_kind, question_reward
from tests.support.systems.played import play_killed, play_small

YES, NO = "feasible", "infeasible"


@pytest.mark.parametrize(
    ("verdicts", "most", "as_feasible", "as_infeasible"),
    [
        ([YES] * 6 + [NO] * 2, YES, 0.75, 0.0),
        ([YES] * 3 + [NO] * 4 + [None], NO, 0.0, 0.5),  # four of eight: what cannot be read counts among them
        ([YES] * 4 + [NO] * 4, None, 0.0, 0.0),
        ([None] * 8, None, 0.0, 0.0),
    ],
)
def test_agreement(verdicts, most, as_feasible, as_infeasible):
    assert agreed(verdicts) == most
    assert (question_reward(verdicts, YES), question_reward(verdicts, NO)) == (as_feasible, as_infeasible)


def test_what_a_verdict_says():
    said = ["Feasible.", "infeasible", "correct", "wrong", "maybe", None]
    assert [as_kind(text) for text in said] == [YES, NO, YES, NO, None, None]


def test_a_round_in_the_lab(tmp_path):
    settings = ["own_phase.KnowRL.options.verdicts=4", "own_phase.KnowRL.options.accept=0.5",
                "own_phase.KnowRL.group_size=2"]  # fmt: skip
    whole = play_small("knowrl-tiny", tmp_path / "whole", settings)
    assert whole.moved == {"policy"} and all(set(line["roles"]) == {"writer", "knower"} for line in whole.lines)
    by_role = {role: [row for row in whole.rows if row["role"] == role] for role in ("writer", "knower")}
    written = [row for row in by_role["writer"] if row["output"]]
    assert len(by_role["knower"]) == 4 * len(written) > 0
    assert {row["reward"] for row in by_role["knower"]} <= {0.0, 1.0}
    pool = [value for path, value in whole.kept.items() if path[1] == "items" and path[-1] == "question"]
    taken = {row["output"] for row in written if row["reward"] >= 0.5}
    assert {question["text"] for question in pool} == taken != set()
    assert play_killed("knowrl-tiny", tmp_path / "killed", settings).same_as(whole)


class Chance:
    """What `_examples` asks of a play."""

    def rng(self, name):
        return random.Random(0)


def test_the_pool_is_shown_to_the_writer_by_kind():
    config = load_recipe("knowrl-tiny")
    phase = KnowRL(config, {**config.own_phase["KnowRL"].options, "shown": 2})
    for i, kind in enumerate((YES, YES, NO)):
        phase.state.add(Question(f"{i}", f"question {i}?", (kind,)))
    assert set(phase._examples(Chance(), YES).split(" / ")) == {"question 0?", "question 1?"}
    assert phase._examples(Chance(), NO) == "question 2?"
    phase.state.reset()
    assert phase._examples(Chance(), NO) == "none yet"
