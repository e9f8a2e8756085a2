"""SSR-Zero: what the policy's own score is worth, who gives it, and a round in the lab."""

import pytest

from aslfast.config import load_recipe
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.scripted import play_scripted

SMALL = ("own_phase.SSRZero.tasks_per_step=3", "own_phase.SSRZero.group_size=6")
ROLES = (
    'roles.policy.prompt="answer: {question}"', 'roles.scorer.adapter="policy"', 'roles.scorer.output=["score"]',
    'roles.scorer.prompt="score {answer}"',
)  # fmt: skip


@pytest.mark.parametrize(("said", "reward"), [("10", 1.0), ("1", 0.0), ("4", 1 / 3), ("11", 0.0), ("good", 0.0)])
def test_a_score_by_hand(make_context, said, reward):
    """(s - 1) / 9; whatever the reference is."""

    def script(prompt, seed):
        return [f"<score>{said}</score>"] if "score " in prompt else ["<answer>no river at all</answer>"]

    rows, _, context = play_scripted(make_context, "aslfast.systems.preference.ssr_zero:SSRZero", script, *ROLES)
    assert [row["reward"] for row in rows] == pytest.approx([reward] * 4)
    assert {request.adapter for request in context.rollout.sampler.requests} == {"policy"}


def test_no_answer_is_not_scored(make_context):
    rows, _, context = play_scripted(
        make_context, "aslfast.systems.preference.ssr_zero:SSRZero", lambda *_: ["nothing<|im_end|>"], *ROLES
    )
    assert [row["reward"] for row in rows] == [0.0] * 4 and len(context.rollout.sampler.requests) == 4


@pytest.mark.parametrize("name", ["ssr-zero", "ssr-zero-tiny"])
def test_the_policy_is_its_own_judge(name):
    config = load_recipe(name)
    assert config.roles["scorer"].adapter == "policy" and config.format_weight == 0


def test_a_round_in_the_lab(tmp_path):
    whole = play_small("ssr-zero-tiny", tmp_path / "whole", SMALL)
    assert whole.moved == {"policy"} and {row["role"] for row in whole.rows} == {"policy"}
    assert {row["reward"] for row in whole.rows} == {0.0, 1.0}
    assert play_killed("ssr-zero-tiny", tmp_path / "killed", SMALL).same_as(whole)
