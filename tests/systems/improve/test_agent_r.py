"""Agent-R: where a wrong path is cut and where the right one goes on, token by token, and a round in the lab."""

import pytest

from aslfast.config import load_recipe
from aslfast.learner.advantage import lesson
from aslfast.phase import Group, Reward
from aslfast.systems.improve.agent_r import NO_VERSION, THOUGHTS, cut_after, parting, spliced
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.turns import act, said, seen

SMALL = ("own_phase.AgentR.tasks_per_step=3", "own_phase.AgentR.group_size=1")


def path(tokens, *turns, output=None):
    """An act of two tokens a turn, with these token ids."""
    made = act(*turns, output=output)
    return type(made)(made.task, tuple(tokens), made.loss_mask, made.logprobs, made.turns, made.stop, made.output)


# prompt 0 1, then a search and what it found, another one, and the answer
WRONG = path([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], said("a"), seen("A"), said("b"), seen("B"), said("w"), output="w")
RIGHT = path([0, 1, 2, 3, 4, 5, 20, 21, 22, 23, 24, 25], said("a"), seen("A"), said("c"), seen("C"), said("r"),
             output="r")  # fmt: skip


@pytest.mark.parametrize(("step", "end"), [(0, 6), (1, 10), (2, 10)])
def test_a_wrong_path_is_cut_after_what_its_step_found(step, end):
    assert cut_after(WRONG, step) == end  # the last one, the answer, is left out itself


def test_the_right_path_goes_on_from_where_both_part():
    assert parting(WRONG, RIGHT, 10) == 6 and parting(WRONG, RIGHT, 6) == 6
    assert parting(WRONG, WRONG, 6) == 6  # not beyond the cut


def test_the_spliced_text_by_hand():
    made = spliced(WRONG, 10, "no", (90, 91, 92), RIGHT)
    assert made.token_ids == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 90, 91, 92, 20, 21, 22, 23, 24, 25)
    assert made.loss_mask == (0,) * 10 + (1, 1, 1) + (1, 1, 0, 0, 1, 1)
    assert [(turn.text, turn.start, turn.end) for turn in made.turns[4:]] == [
        ("B", 8, 10), ("no", 10, 13), ("c", 13, 15), ("C", 15, 17), ("r", 17, 19)
    ]  # fmt: skip
    assert made.output == "r" and made.adapter_version == NO_VERSION


@pytest.mark.parametrize("name", ["agent-r", "agent-r-tiny"])
def test_what_ends_well_is_learnt_by_likelihood(name):
    config = load_recipe(name)
    acts = RIGHT, WRONG, spliced(WRONG, 10, "no", (90,), RIGHT)
    group = Group(acts, tuple(Reward({"r": reward}) for reward in (1.0, 0.0, 1.0)))
    taught = lesson([group], config.advantage_of("policy"), config.loss_of("policy"))
    assert config.loss.kind == "sft" and taught.trajectories == [acts[0], acts[2]]


def test_a_round_in_the_lab(tmp_path):
    whole = play_small("agent-r-tiny", tmp_path / "whole", SMALL)
    assert whole.moved == {"policy"} and {row["role"] for row in whole.rows} == {"policy"}
    revised = [row for row in whole.rows if any(thought in row["conversation"] for thought in THOUGHTS)]
    assert revised and {row["adapter_version"] for row in revised} == {NO_VERSION}
    assert {row["reward"] for row in revised} == {1.0} and {row["reward"] for row in whole.rows} == {0.0, 1.0}
    learnt = sum(sum(row["loss_mask"]) for row in whole.rows if row["reward"] == 1.0)
    assert sum(line["loss_tokens"] for line in whole.lines) == learnt
    assert play_killed("agent-r-tiny", tmp_path / "killed", SMALL).same_as(whole)
