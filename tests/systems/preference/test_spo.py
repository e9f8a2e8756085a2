"""SPO: win rates by hand, a play of scripted answers, and a round in the lab."""

import pytest

from aslfast.core import Task
from aslfast.systems.preference.compared import choice, win_rates
from aslfast.systems.preference.spo import SPO
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.scripted import play_once

SMALL = ("own_phase.SPO.tasks_per_step=3", "own_phase.SPO.group_size=1", "own_phase.SPO.options.answers=4")
OVERRIDES = [
    'phases=["aslfast.systems.preference.spo:SPO"]', 'roles.policy.prompt="answer: {question}"',
    'roles.grm.output=["choice"]', 'roles.grm.prompt="compare {first} / {second}"', "own_phase.SPO.options.answers=4",
]  # fmt: skip


def test_win_rates_of_three_answers_by_hand():
    """The first beats both, the other two draw: (1 + 1) / 2, (0 + 1/2) / 2 twice."""
    assert win_rates({(0, 1): 1.0, (0, 2): 1.0, (1, 2): 0.5}, 3) == [1.0, 0.25, 0.25]


@pytest.mark.parametrize(
    ("said", "first"),
    [("1", 1.0), ("correct", 1.0), ("2", 0.0), ("wrong", 0.0), ("both", 0.5), (None, 0.5), ("1 or 2", 0.5)],
)
def test_a_choice_is_of_the_first_or_the_second(said, first):
    assert choice(said) == first


def settled(make_context, answers, prefer):
    """The rewards of the answers, and how often the judge was asked. prefer: (first, second) -> what the judge says."""
    given = iter(answers)

    def script(prompt, seed):
        last = prompt.rpartition("user\n")[2]
        if last.startswith("answer: "):
            answer = next(given)
            return ["nothing<|im_end|>"] if answer is None else [f"<answer>{answer}</answer>"]
        first, _, second = last.partition("compare ")[2].partition("<|im_end|>")[0].partition(" / ")
        return [f"<choice>{prefer(first, second.strip())}</choice>"]

    context = make_context(script=script, overrides=OVERRIDES)
    acts, play = play_once(SPO, context, Task("t", "policy", "", "Which town?", ("Oslo",)))
    asked = sum("compare " in context.rollout.chat.text(r.token_ids) for r in context.rollout.sampler.requests)
    return {act.output: play.settled(act, None) for act in acts}, asked


def test_each_answer_earns_its_share_of_the_others(make_context):
    def alphabetic(first, second):
        return 1 if first.lower() < second.lower() else 2

    found, asked = settled(make_context, ["Bergen", "Oslo", "Rome", "oslo"], alphabetic)
    # Bergen beats three; each Oslo draws with the other and beats Rome: (0 + 1/2 + 1) / 3
    assert found == pytest.approx({"Bergen": 1.0, "Oslo": 0.5, "oslo": 0.5, "Rome": 0.0}) and asked == 10


def test_a_judge_that_always_takes_the_first_decides_nothing(make_context):
    found, asked = settled(make_context, ["Bergen", "Oslo", "Rome", None], lambda *_: 1)
    assert found == pytest.approx({"Bergen": 2 / 3, "Oslo": 2 / 3, "Rome": 2 / 3, None: 0.0}) and asked == 6


def test_a_round_in_the_lab(tmp_path):
    whole = play_small("spo-tiny", tmp_path / "whole", SMALL)
    assert whole.moved == {"policy"} and {row["role"] for row in whole.rows} == {"policy"}
    groups = {}
    for row in whole.rows:
        groups.setdefault((row["step"], row["question"]), []).append(row["reward"])
    assert len(groups) == 6 and all(sum(rewards) == pytest.approx(2.0) for rewards in groups.values())  # zero-sum
    assert any(len(set(rewards)) > 1 for rewards in groups.values())
    assert play_killed("spo-tiny", tmp_path / "killed", SMALL).same_as(whole)
