"""SCoRe: rewards of two attempts by stage, their spans, and a round in the lab."""

import dataclasses

import pytest

from aslfast.systems.improve.score import FIRST, SECOND, attempt_rewards, attempt_spans
from tests.support.systems.played import play_killed, play_small
from tests.support.token_streams import trajectory


@pytest.mark.parametrize(
    ("first", "second", "stage", "rewards"),
    [
        (0, 1, 1, (None, 1)), (1, 0, 1, (None, 0)),  # stage 1: the second attempt's match alone
        (0, 0, 2, (0, 0)), (1, 1, 2, (1, 1)),
        (0, 1, 2, (0, 11)),  # 1 + 10 (1 - 0)
        (1, 0, 2, (1, -10)),  # 0 + 10 (0 - 1)
    ],
)  # fmt: skip
def test_rewards_of_two_attempts(first, second, stage, rewards):
    assert attempt_rewards(first, second, stage, 10.0) == rewards


def test_the_spans_divide_the_trajectory_where_the_first_attempt_ended():
    first, both = trajectory(6, 1), trajectory(15, 1)
    one, two = attempt_spans(first, both, (None, 1.0), 10.0)
    n, m = len(first.token_ids), len(both.token_ids)
    assert (one.name, one.start, one.end, one.reward, one.kl_weight) == (FIRST, 0, n, None, 10.0)
    assert (two.name, two.start, two.end, two.reward, two.kl_weight) == (SECOND, n, m, 1.0, 1.0)


def test_a_round_in_the_lab(tmp_path):
    whole = play_small("score-tiny", tmp_path / "whole")
    assert [line["phase"] for line in whole.lines] == ["StageOne"] * 2 + ["StageTwo"] * 2 and whole.moved == {"policy"}
    spans = {line["phase"]: [] for line in whole.lines}
    for row in whole.rows:
        spans[phase_of(row)] += [dataclasses.asdict(span) for span in row["spans"]]
    for phase, found in spans.items():
        by_name = {name: [span for span in found if span["name"] == name] for name in (FIRST, SECOND)}
        assert by_name[FIRST] and len(by_name[FIRST]) == len(by_name[SECOND])
        assert all((span["reward"] is None) == (phase == "StageOne") for span in by_name[FIRST])
        assert {span["kl_weight"] for span in by_name[FIRST]} == {10.0 if phase == "StageOne" else 1.0}
    assert {span["reward"] for span in spans["StageTwo"] if span["name"] == SECOND} <= {0.0, 1.0, 11.0, -10.0}
    assert all(line["kl"] >= 0 for line in whole.lines)
    assert play_killed("score-tiny", tmp_path / "killed").same_as(whole)


def phase_of(row):
    return row["task_id"].partition("1-")[0]
