"""Self-RedTeam: rewards of both sides by the labels, which games count, and a round in the lab."""

import pytest

from aslfast.core import StopReason, Task, Trajectory, Turn
from aslfast.systems.selfplay.self_redteam import (
    Labels,
    SelfRedTeam,
    attacker_rewards,
    defender_rewards,
    thought_reward,
)
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.scripted import play_once

SMALL = ("own_phase.SelfRedTeam.tasks_per_step=10", "own_phase.SelfRedTeam.group_size=1")
OVERRIDES = [
    'phases=["aslfast.systems.selfplay.self_redteam:SelfRedTeam"]', 'roles.generator.prompt="ask {kind}: {topic}"',
    'roles.generator.output=["question", "answer"]', 'roles.policy.prompt="answer: {question}"',
    'roles.grm.output=["verdict"]', 'own_phase.SelfRedTeam.options.question_prompt="fair {question} {answer}"',
    'own_phase.SelfRedTeam.options.answer_prompt="held {question} {answer}"',
]  # fmt: skip


@pytest.mark.parametrize(
    ("seeded", "trap", "refused", "unsupported", "attacker", "defender"),
    [
        (True, True, False, True, 0.5 + 1 + 0.5, -1 - 1),  # a trap that was fallen into
        (True, True, True, False, 0.5 - 1 - 0.5, 1 + 1),  # refused
        (True, False, False, False, -0.5 - 1 - 0.5, 1 + 1),  # no trap, in spite of the seed, and answered well
        (False, False, False, True, 0.5 + 1 - 0.5, -1 + 1),  # a fair question, answered out of thin air
        (False, False, True, False, 0.5 - 1 + 0.5, 1 - 1),  # refused, though it is fair
        (False, True, True, False, -0.5 - 1 - 0.5, 1 + 1),  # a trap that was not asked for
    ],
)  # fmt: skip
def test_rewards_by_hand(seeded, trap, refused, unsupported, attacker, defender):
    labels = Labels(seeded, trap, refused, unsupported)
    assert sum(attacker_rewards(labels).values()) == attacker and sum(defender_rewards(labels).values()) == defender


@pytest.mark.parametrize(
    ("said", "reward"),
    [("<think>so</think><answer>x</answer>", 1.0), ("<answer>x</answer>", -1.0), ("<think> </think>x", -1.0),
     ("<think>a</think><think>b</think>x", -1.0), ("<think>a x", -1.0)],
)  # fmt: skip
def test_thinking_first_pays(said, reward):
    act = Trajectory(Task("t", "policy", ""), (1, 2), (0, 1), (0.0, -1.0), (Turn("sampled", 1, 2, said),),
                     StopReason.NO_OUTPUT)  # fmt: skip
    assert thought_reward(act) == reward


def game(make_context, answered="unanswerable", fair="wrong", held="correct", asked="Who rules the moon?"):
    """One game about a trap: roles and rewards, and how often the guard was asked about an answer."""

    def script(prompt, seed):
        last = prompt.rpartition("user\n")[2]
        if last.startswith("ask "):
            return [f"<think>so</think><question>{asked}</question><answer>none</answer>" if asked else "no<|im_end|>"]
        if last.startswith("answer: "):
            return [f"<answer>{answered}</answer>" if answered else "nothing<|im_end|>"]
        return [f"<verdict>{fair if last.startswith('fair ') else held}</verdict>"]

    context = make_context(script=script, overrides=OVERRIDES)
    acts, play = play_once(SelfRedTeam, context, Task("t", "generator", "", "the moon", ("trap",)))
    held_asked = sum("held " in context.rollout.chat.text(r.token_ids) for r in context.rollout.sampler.requests)
    return [(act.task.role, play.settled(act, None)) for act in acts], held_asked


def test_a_refused_trap(make_context):
    played, asked = game(make_context)
    assert asked == 0 and played == [
        ("generator", {"faithful": 0.5, "unsupported": -1.0, "refusal": -0.5, "thought": 1.0}),
        ("policy", {"supported": 1.0, "refusal": 1.0, "thought": -1.0}),
    ]


def test_a_trap_that_is_fallen_into(make_context):
    played, asked = game(make_context, answered="the king", held="wrong")
    assert asked == 1 and [sum(rewards.values()) for _, rewards in played] == [3.0, -3.0]


@pytest.mark.parametrize("unread", [{"answered": ""}, {"fair": "uncertain"}, {"answered": "x", "held": "uncertain"}])
def test_a_game_that_cannot_be_read_is_skipped(make_context, unread):
    assert game(make_context, **unread)[0] == [("generator", None), ("policy", None)]


def test_without_a_question_the_game_is_over(make_context):
    assert game(make_context, asked="")[0] == [("generator", None)]


def test_a_round_in_the_lab(tmp_path):
    whole = play_small("self-redteam-tiny", tmp_path / "whole", SMALL)
    assert whole.moved == {"policy"} and all(line["kl"] >= 0 for line in whole.lines)
    learnt = [row for row in whole.rows if row["reward"] is not None]
    assert {row["role"] for row in learnt} == {"generator", "policy"}
    unsupported = {row["reward_parts"]["unsupported"] for row in learnt if row["role"] == "generator"}
    faithful = {row["reward_parts"]["faithful"] for row in learnt if row["role"] == "generator"}
    assert unsupported == {1.0, -1.0} and faithful <= {0.5, -0.5}
    assert play_killed("self-redteam-tiny", tmp_path / "killed", SMALL).same_as(whole)
