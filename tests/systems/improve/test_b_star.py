"""B-STaR: scores, balance, the choice of the two knobs, what is kept, and two rounds in the lab."""

import json
from dataclasses import replace

import pytest

from aslfast.core import Group, Reward
from aslfast.systems.improve.b_star import ScoredSample, balance, best_knobs, grid, kept_samples, score
from tests.support.systems.played import play_killed, play_small
from tests.support.token_streams import trajectory

TUNED = [
    "own_phase.BStar.options.held_back=3", "own_phase.BStar.options.tries=2",
    "own_phase.BStar.options.temperature_high=0.7", "rounds=2", "own_phase.BStar.steps=1",
]  # fmt: skip


def test_a_score_is_the_match_and_a_fifth_of_the_verdict():
    found = [score(right, said) for right in (True, False) for said in ("correct", "wrong", None)]
    assert found == pytest.approx([1.2, 0.8, 0.8, 0.2, -0.2, -0.2])


def test_balance():
    """Four kept of five, three right, of which two are the same: min(2 / 8, 1) 2 / 4."""
    samples = [
        ScoredSample("Oslo", True, 1.2), ScoredSample("oslo", True, 1.2), ScoredSample("Oslo, Norway", True, 0.8),
        ScoredSample("Bergen", False, 0.2), ScoredSample("Rome", False, -0.2),
    ]  # fmt: skip
    assert balance(samples, 0.0) == pytest.approx(0.125)
    assert balance(samples, 0.5) == pytest.approx(0.25 * 2 / 3)
    assert balance(samples, 1.2) == 0.0
    assert balance([ScoredSample(f"{i}", True, 1.2) for i in range(10)], 0.0) == 1.0  # no more than 8 are needed


def test_the_best_knobs_are_those_of_the_best_mean_balance():
    right, wrong = ScoredSample("a", True, 1.2), ScoredSample("b", False, 0.2)
    found = {0.5: [[right], [wrong]], 0.9: [[right, wrong], [right, wrong]]}
    # at 0.5: (1/8 + 0) / 2 with both thresholds; at 0.9: 1/16 with the lower one, 1/8 with the higher
    assert best_knobs(found, [0.0, 0.4]) == (0.9, 0.4)
    assert best_knobs({0.5: [[wrong]], 0.9: [[wrong]]}, [0.0, 0.4]) == (0.5, 0.0)


def test_the_grid_has_both_ends():
    assert grid(0.5, 1.2, 0.35) == [0.5, 0.85, 1.2] and grid(-0.2, 1.0, 0.4) == [-0.2, 0.2, 0.6, 1.0]


def test_what_is_kept_of_a_question():
    """Above the threshold, the same tokens once, best first, at most two."""
    one, twin, two, three = (replace(trajectory(4, seed), token_ids=ids) for seed, ids in
                             zip(range(4), ((1,) * 4, (1,) * 4, (2,) * 4, (3,) * 4), strict=True))  # fmt: skip
    group = Group((two, one, twin, three), tuple(Reward({"r": r}) for r in (0.8, 1.2, 1.2, -0.2)))
    kept = kept_samples(group, 0.0, 2)
    assert [t.token_ids[0] for t in kept.trajectories] == [1, 2] and [r.total for r in kept.rewards] == [1.2, 0.8]
    assert kept_samples(group, 1.2, 2) is None


def test_two_rounds_in_the_lab(tmp_path):
    whole = play_small("b-star-tiny", tmp_path / "whole", TUNED)
    assert whole.moved == {"policy"} and sum(line["left_out"] for line in whole.lines) > 0
    held = whole.kept[("BStar", "questions")]
    assert len(held) == 3
    asked = {row["question"] for row in whole.rows}
    assert not asked & {question["text"] for question in held}  # what the knobs are tuned on is not learnt from
    tuned = {line["round"]: json.dumps(line.get("settings", {})) for line in whole.lines}
    assert "sampler.temperature" not in tuned[1] and "sampler.temperature" in tuned[2] and "threshold" in tuned[2]
    assert play_killed("b-star-tiny", tmp_path / "killed", TUNED).same_as(whole)
