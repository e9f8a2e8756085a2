"""ACT: what a choice earns, what is compared with what, and a round in the lab."""

import pytest

from aslfast.core import Task
from aslfast.systems.preference.act import ACT, choice_reward
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.scripted import play_once

SMALL = ("own_phase.ACT.tasks_per_step=8", "own_phase.ACT.group_size=1", "own_phase.ACT.options.choices=4",
         "policy.group_size=4")  # fmt: skip
OVERRIDES = [
    'phases=["aslfast.systems.preference.act:ACT"]', 'roles.policy.prompt="answer: {question}"',
    'roles.novice.adapter="policy"', "roles.novice.max_turns=1", 'roles.critic.adapter="policy"',
    'roles.critic.output=["choice"]', 'roles.critic.prompt="after {before}: {first} / {second}"',
    'own_phase.ACT.options.go_on="go on: {question}"', "own_phase.ACT.options.choices=2",
    "own_phase.ACT.options.tries=2",
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "expert_first", "reward"),
    [("1", True, 1.0), ("2", True, 0.0), ("2", False, 1.0), ("1", False, 0.0), (None, True, 0.0), ("3", False, 0.0)],
)
def test_a_choice_is_right_if_it_is_the_experts(said, expert_first, reward):
    assert choice_reward(said, expert_first) == reward


def compared(make_context, number=0, step="answer", right=True, own="Bergen", choose=1):
    """One play: roles and rewards of its acts, failed checks, and what the critic was shown."""

    def script(prompt, seed):
        last = prompt.rpartition("user\n")[2]
        if last.startswith("answer: "):
            return ['<tool_call>{"name": "search", "arguments": {"query": "town"}}</tool_call>',
                    f"<answer>{'Oslo' if right else 'Rome'}</answer>"]  # fmt: skip
        return [f"<answer>{own}</answer>"] if last.startswith("go on: ") else [f"<choice>{choose}</choice>"]

    context = make_context(script=script, overrides=[*OVERRIDES, f"own_phase.ACT.options.step={step}"])
    acts, play = play_once(ACT, context, Task("t", "critic", "", "Which town?", ("Oslo",)), number)
    return [(a.task.role, play.settled(a, None)) for a in acts], play.context.counters.failed_checks, acts


def test_the_critic_chooses_between_the_experts_answer_and_its_own(make_context):
    found = {}
    for number in range(6):
        played, failed, acts = compared(lambda *a, **k: make_context(f"run{number}", **k), number)  # noqa: B023
        shown = acts[0].task.prompt.rpartition(": ")[2]
        assert failed == {} and shown in ("Oslo / Bergen", "Bergen / Oslo") and "town" in acts[0].task.prompt
        assert played == [("critic", float(shown == "Oslo / Bergen"))] * 2  # it always says 1
        found[shown] = True
    assert len(found) == 2  # both orders come


@pytest.mark.parametrize(
    ("changed", "failed"),
    [({"right": False}, {"right": 2}), ({"own": "oslo"}, {"another": 1})],
)
def test_without_an_expert_or_another_action_nothing_is_learnt(make_context, changed, failed):
    played, counted, _ = compared(make_context, **changed)
    assert [reward for _, reward in played] == [None] and counted == failed


def test_a_round_in_the_lab(tmp_path):
    whole = play_small("act-tiny", tmp_path / "whole", SMALL)
    assert whole.moved == {"policy"} and [line["phase"] for line in whole.lines] == ["ACT"] * 2 + ["policy"]
    assert {name for line in whole.lines for name in line.get("failed_checks", {})} == {"right", "another"}
    choices = [row for row in whole.rows if row["role"] == "critic"]
    assert {row["reward"] for row in choices} == {0.0, 1.0} and len(choices) % 4 == 0
    assert play_killed("act-tiny", tmp_path / "killed", SMALL).same_as(whole)
