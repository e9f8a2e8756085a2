"""SEIF: shares and lists by hand, what the filter keeps out, and both stages of a round in the lab."""

import asyncio

import pytest

from aslfast.config import load_recipe
from aslfast.core import Task
from aslfast.phase import Play
from aslfast.systems.selfplay.seif import SEIF, conditions_of, instructor_reward, share_met
from tests.support.systems.played import play_killed, play_small

SMALL = ("own_phase.SEIF.tasks_per_step=3", "own_phase.SEIF.group_size=3", "own_phase.SEIF.options.answers=3",
         "own_phase.SEIF.options.instructor_steps=1")  # fmt: skip


def test_an_answer_earns_the_share_of_conditions_that_it_meets():
    assert share_met(["correct", "wrong", None]) == pytest.approx(1 / 3)
    assert share_met(["correct"] * 5) == 1.0 and share_met(["uncertain", "correct"]) == 0.5


@pytest.mark.parametrize(
    ("shares", "reward"), [([1 / 3], 2 / 3), ([1.0], 0.0), ([None], 0.0), ([0.0, None, 0.5, 1.0], 0.375)]
)
def test_the_instructor_earns_what_is_not_met(shares, reward):
    assert instructor_reward(shares) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ('["a year", "a town", "a source"]', ["a year", "a town", "a source"]),
        ('["a year", "a town"]', None),
        ('["a year", "A year ", "a source"]', None),  # twice the same
        ('["a year", "", "a source"]', None),
        ('{"a": 1}', None),
        ("a year, a town", None),
        ('["a", "b", 3]', None),
        (None, None),
    ],
)
def test_conditions_are_a_json_list(output, found):
    assert conditions_of(output, 3) == found


def test_one_condition_is_the_output_itself():
    assert conditions_of("Which river?", 1) == ["Which river?"] and conditions_of(None, 1) is None


OVERRIDES = [
    'phases=["aslfast.systems.selfplay.seif:SEIF"]', 'roles.generator.output=["conditions"]',
    'roles.generator.prompt="harder: {question}"', 'roles.policy.prompt="do: {question}"',
    'roles.filter.adapter="policy@previous"', 'roles.filter.output=["verdict"]',
    'roles.filter.prompt="fit? {question} {conditions}"', 'roles.grm.adapter="policy@previous"',
    'roles.grm.output=["verdict"]', 'roles.grm.prompt="met? {condition} by {answer}"',
    'own_phase.SEIF.options.instruction="{question} Conditions: {conditions}"', "own_phase.SEIF.options.answers=2",
    "own_phase.SEIF.options.instructor_steps=1",
]  # fmt: skip
LISTED = '["a year", "a town", "a source"]'


def stage(make_context, following, listed=LISTED, fits="correct", answer="<answer>Oslo in 1900</answer>"):
    """One play: the acts, their rewards, failed checks, and what was asked of the judge."""

    def script(prompt, seed):
        last = prompt.rpartition("user\n")[2]
        if last.startswith("harder: "):
            return [f"<conditions>{listed}</conditions>"]
        if last.startswith("fit? "):
            return [f"<verdict>{fits}</verdict>"]
        if last.startswith("met? "):
            return [f"<verdict>{'wrong' if 'a source' in last else 'correct'}</verdict>"]
        return [answer + "<|im_end|>"]

    context = make_context(script=script, overrides=OVERRIDES)
    context.state.phase_step = int(following)
    phase = SEIF(context.config, context.config.own_phase["SEIF"].options)
    phase.tasks(context.tasks)
    play = Play(context.start_step().for_group(), Task("t", "generator", "", "Which town?"), 0)
    acts = asyncio.run(phase.play(play, play.task))
    return acts, [play.settled(a, 9.0) for a in acts], play.context.counters.failed_checks


def test_first_the_instructor_learns(make_context):
    acts, rewards, failed = stage(make_context, following=False)
    assert [a.task.role for a in acts] == ["generator"] and rewards == pytest.approx([1 / 3]) and failed == {}


def test_then_the_follower_does(make_context):
    acts, rewards, _ = stage(make_context, following=True)
    assert [a.task.role for a in acts] == ["policy"] * 2 and rewards == pytest.approx([2 / 3] * 2)
    wanted = "Which town? Conditions: (1) a year (2) a town (3) a source"
    assert acts[0].task.prompt == f"do: {wanted}" and acts[0].task.question == wanted


@pytest.mark.parametrize(("changed", "failed"), [({"listed": "a year"}, "a_list"), ({"fits": "wrong"}, "compatible")])
def test_what_is_no_list_or_filtered_earns_nothing_and_is_not_answered(make_context, changed, failed):
    acts, rewards, counted = stage(make_context, following=False, **changed)
    assert len(acts) == 1 and rewards == [{failed: 0.0}] and counted == {failed: 1}


def test_the_follower_does_not_learn_from_what_is_filtered(make_context):
    acts, rewards, counted = stage(make_context, following=True, fits="wrong")
    assert [a.task.role for a in acts] == ["generator"] and rewards == [None] and counted == {"compatible": 1}


def test_no_answer_pays_neither(make_context):
    assert stage(make_context, following=False, answer="no")[1] == [0.0]


def test_filter_and_judge_are_the_follower_of_a_round_ago():
    for recipe in ("seif", "seif-tiny"):
        config = load_recipe(recipe)
        assert config.adapter_of("filter") == config.adapter_of("grm") == "policy@previous"
        assert config.adapters_of(SEIF.roles) == ("generator", "policy")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play_small("seif-tiny", tmp_path_factory.mktemp("seif") / "run", SMALL)


def test_both_stages_of_a_round_learn(played):
    assert played.moved == {"generator", "policy"}
    first, second = played.lines
    assert set(first["roles"]) == {"generator"} and second["roles"]["policy"]["trajectories"] >= 6
    assert first["grad_norm"] > 0 and second["grad_norm"] > 0
    assert "compatible" in {**first.get("failed_checks", {}), **second.get("failed_checks", {})}


def test_a_resume_gives_the_same_bits(played, tmp_path):
    assert play_killed("seif-tiny", tmp_path / "run", SMALL).same_as(played)
