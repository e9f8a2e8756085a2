"""SPIRAL: who wins, what each side is paid, its baseline by role, and games in the lab that both sides learn from."""

import json
import sqlite3

import pytest

from aslfast.config import load_recipe
from aslfast.core import Group, Reward
from aslfast.learner.advantage import lesson
from aslfast.systems.selfplay.spiral import PAID, Spiral, outcome_of
from tests.support.systems.acts import act
from tests.support.systems.played import play_killed, play_small

SMALL = ("own_phase.Spiral.tasks_per_step=6", "own_phase.Spiral.group_size=1")


def asked(answer="Oslo", read="Mira was born in Oslo."):
    return act("generator", "Where was Mira born?", answer, read=[read])


RIGHT, WRONG, MUTE = act("policy", "oslo"), act("policy", "Bergen"), act("policy")


@pytest.mark.parametrize(
    ("moves", "outcome"),
    [
        ([], None),
        ([asked()], None),
        ([asked(), WRONG], "generator"),
        ([asked(), RIGHT], None),
        ([asked(), RIGHT, asked(), RIGHT], "policy"),
        ([asked(), RIGHT, asked(), WRONG], "generator"),
        ([asked(), MUTE], "policy illegal"),
        ([act("generator")], "generator illegal"),
        ([asked(read="Nothing found."), WRONG], None),  # no passage states it: void
        ([asked(read="Nothing found."), RIGHT, asked(), RIGHT], None),
    ],
)
def test_the_passages_decide_who_wins(moves, outcome):
    assert outcome_of(moves, to_win=2) == outcome


def test_each_act_is_paid_what_its_side_has_at_the_end():
    config = load_recipe("spiral-tiny")
    phase = Spiral(config, config.own_phase["Spiral"].options)
    games = [(asked(), RIGHT, asked(), WRONG), (asked(), RIGHT, asked(), RIGHT), (asked(), MUTE), (asked(), RIGHT)]
    assert phase.rewards(None, games) == [[1, -1, 1, -1], [-1, 1, -1, 1], [0.5, -1.5], [0, 0]]
    assert phase.rewards(None, [(act("generator"),)]) == [[-1.5]] and PAID["generator illegal"] == (-1.5, 0.5)


def test_the_baseline_is_a_moving_mean_of_the_role():
    """b is 0, 0.05, -0.0025, ... for the rewards 1, -1, 1: b <- 0.95 b + 0.05 R after each."""
    config = load_recipe("spiral-tiny")
    group = Group((asked(),) * 3, tuple(Reward({"r": r}) for r in (1.0, -1.0, 1.0)))
    taught = lesson([group], config.advantage_of("generator"), config.loss_of("policy"), {})
    assert [signal.advantage for signal in taught.signals] == pytest.approx([1.0, -1.05, 1.0025])
    (mean,) = taught.history.values()
    assert mean == pytest.approx((0.047625,))


def test_an_advantage_of_zero_is_left_out():
    config = load_recipe("spiral")
    group = Group((asked(),) * 2, tuple(Reward({"r": r}) for r in (0.0, 1.0)))  # the first: a draw before all else
    taught = lesson([group], config.advantage_of("generator"), config.loss_of("policy"), {})
    assert len(taught.trajectories) == 1


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play_small("spiral-tiny", tmp_path_factory.mktemp("spiral") / "run", SMALL)


def test_games_of_several_turns_teach_both_sides(played):
    assert played.moved == {"policy"} and all(line["grad_norm"] > 0 for line in played.lines)
    games = {}
    for row in played.rows:
        games.setdefault(row["task_id"].rpartition(".")[0], []).append(row)
    assert len(games) == 12 and max(map(len, games.values())) >= 3
    paid = {tuple(sorted({(row["role"], row["reward"]) for row in game})) for game in games.values()}
    assert len(paid) > 1 and paid <= {
        tuple(sorted(zip(("generator", "policy"), pair, strict=True))) for pair in PAID.values()
    } | {(("generator", -1.5),)}


def test_the_next_question_starts_from_the_answer(played):
    rows = {row["task_id"]: row for row in played.rows}
    later = [(name, row) for name, row in rows.items() if name.endswith(".generator3")]
    assert later
    for name, row in later:
        answered = rows[name.replace(".generator3", ".policy2")]
        assert f"ask 1: {answered['output']}" in row["conversation"]


def test_the_baselines_of_both_roles_are_kept(played):
    with sqlite3.connect(played.run / "ledger.sqlite") as store:
        states = [json.loads(body)["state"] for (body,) in store.execute("SELECT body FROM commits ORDER BY number")]
    kept = {key for state in states for key in state.get("baselines", {})}
    assert kept == {"generator/generator", "policy/policy"}


def test_a_resume_gives_the_same_bits(played, tmp_path):
    assert play_killed("spiral-tiny", tmp_path / "run", SMALL).same_as(played)
