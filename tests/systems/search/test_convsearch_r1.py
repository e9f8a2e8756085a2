"""ConvSearch-R1: the reward by rank against numbers by hand, and its two stages in the lab."""

import pytest

from aslfast.config import load_recipe
from aslfast.systems.search import convsearch_r1
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.turns import act, said, search

SMALL = [
    "rounds=2", "own_phase.ConvSearchR1.steps=1", "own_phase.ConvSearchR1.tasks_per_step=4", "sampler.temperature=1.2",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return play_small("convsearch-r1-tiny", tmp_path_factory.mktemp("convsearch") / "run", SMALL)


@pytest.mark.parametrize(
    ("rank", "reward"),
    [(1, 2.0), (4, 5 / 3), (10, 1.0), (11, 0.988889), (55, 0.5), (100, 0.0), (101, 0.0), (None, 0.0)],
)
def test_the_reward_by_rank(rank, reward):
    assert convsearch_r1.rank_reward(rank) == pytest.approx(reward, abs=1e-6)


def test_the_rank_of_the_first_gold_passage():
    found = ["Rome is old.", "Norway has a capital: Oslo.", "Oslo."]
    assert convsearch_r1.rank_of_gold(found, ("Bergen", "oslo")) == 2
    assert convsearch_r1.rank_of_gold(found, ("Paris",)) is None


@pytest.mark.parametrize(
    ("by_call", "written", "query"),
    [
        (False, act(said("<rewrite>capital of Norway</rewrite>"), output="capital of Norway"), "capital of Norway"),
        (False, act(search("capital")), None),
        (True, act(search("capital")), "capital"),
        (True, act(said("no call")), None),
    ],
)
def test_the_rewrite_and_what_is_none(by_call, written, query):
    phase = convsearch_r1.ConvSearchR1(load_recipe("convsearch-r1"), {"by_call": by_call})
    assert phase.rewrite(written) == query


def test_own_successes_first_then_ranks(whole):
    first, second = whole.lines
    firsts = [row for row in whole.rows if row["round"] == 1 and row["reward"] == 2.0]
    assert 0 < len(firsts) < 16 and first["loss_tokens"] == sum(sum(row["loss_mask"]) for row in firsts)
    assert "settings" not in first and second["settings"] == {"loss.kind": "ppo"}
    assert whole.moved == {"policy"} and second["grad_norm"] > 0


def test_rewards_are_ranks_or_malformed(whole):
    ranks = {(19 - r) / 9 for r in range(1, 11)} | {(100 - r) / 90 for r in range(11, 101)} | {0.0}
    for row in whole.rows:
        ((part, value),) = row["reward_parts"].items()
        assert (part == "rank" and min(abs(value - r) for r in ranks) < 1e-9) or (part, value) == ("format", -0.1)
        assert part == "format" or "<tool_call>" in row["conversation"]
    assert {part for row in whole.rows for part in row["reward_parts"]} == {"rank", "format"}


def test_a_resume_changes_no_bit(whole, tmp_path):
    assert play_killed("convsearch-r1-tiny", tmp_path / "run", SMALL).same_as(whole)
