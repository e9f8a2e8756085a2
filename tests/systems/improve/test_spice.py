"""SPICE: the challenger's reward, what is valid, whose answers are learnt from, and a round in the lab."""

from dataclasses import replace

import pytest

from aslfast.config import load_recipe
from aslfast.core import StopReason, Task, Trajectory, Turn
from aslfast.systems.improve.spice import Spice, challenger_reward, is_valid
from tests.support.systems.played import play_killed, play_small

ASKED = Trajectory(
    Task("t", "challenger", "Write. Document: The river Glomma flows to Fredrikstad."), (1, 2), (0, 1), (0.0, -1.0),
    (Turn("prompt", 0, 1, "Write. Document: The river Glomma flows to Fredrikstad."), Turn("sampled", 1, 2, "Oslo")),
    StopReason.FINISHED, "Where does the Glomma end?", "Fredrikstad",
)  # fmt: skip


@pytest.mark.parametrize(("p", "reward"), [(0.5, 1.0), (0.25, 0.822578), (0.125, 0.372034), (0.0, 0.043937)])
def test_the_reward_is_best_at_one_half(p, reward):
    """p (1 - p) - 1/4 is 0, -0.0625, -0.140625, -0.25: exp(-x^2 / 0.02)."""
    assert challenger_reward(p) == pytest.approx(reward, abs=1e-6) == challenger_reward(1 - p)


def test_an_answer_must_stand_in_what_was_read():
    assert is_valid(ASKED)
    assert not is_valid(replace(ASKED, output_answer="Oslo"))  # it said so itself
    assert not is_valid(replace(ASKED, output_answer=None))
    assert not is_valid(replace(ASKED, output="Where?"))


def answer(text):
    return replace(ASKED, task=Task("a", "policy", ""), turns=(), output=text, output_answer=None)


def test_the_reasoner_learns_from_one_question_of_a_document():
    config = load_recipe("spice-tiny", ["own_phase.Spice.options.tries=3", "own_phase.Spice.options.answers=2"])
    phase = Spice(config, config.own_phase["Spice"].options)
    invalid = replace(ASKED, output_answer="Oslo")
    acts = (invalid, ASKED, ASKED, *map(answer, ("Fredrikstad", "Oslo", "Fredrikstad", "the Fredrikstad")))
    (found,) = phase.rewards(ASKED.task, [acts])
    assert found == pytest.approx([-0.1, 1.0, 0.043937, 1.0, 0.0, None, None], abs=1e-6)


def test_a_round_in_the_lab(tmp_path):
    settings = ["own_phase.Spice.group_size=1"]
    whole = play_small("spice-tiny", tmp_path / "whole", settings)
    assert whole.moved == {"policy"}
    rows = {role: [row for row in whole.rows if row["role"] == role] for role in ("challenger", "policy")}
    assert len(rows["challenger"]) == 2 * 3 * 4  # steps, documents, questions
    rewards = [row["reward"] for row in rows["challenger"]]
    assert all(reward == -0.1 or 0 < reward <= 1 for reward in rewards) and any(reward > 0 for reward in rewards)
    assert rows["policy"] and len(rows["policy"]) % 4 == 0
    learnt = [row for row in rows["policy"] if row["reward"] is not None]
    assert 0 < len(learnt) <= 2 * 3 * 4  # of one question a document
    assert play_killed("spice-tiny", tmp_path / "killed", settings).same_as(whole)
