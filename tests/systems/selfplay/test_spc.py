"""SPC: who wins a game about a step, which spoilt steps count, its loss, and games in the lab."""

import pytest

from aslfast.config import load_recipe
from aslfast.core import Group, Reward, Task
from aslfast.learner.advantage import lesson
from aslfast.systems.selfplay.spc import SPC, critic_reward, is_valid
from tests.support.systems.acts import act
from tests.support.systems.played import play_killed, play_small
from tests.support.systems.scripted import play_once

SMALL = ("own_phase.SPC.tasks_per_step=4", "own_phase.SPC.group_size=4", "own_phase.SPC.options.tries=3",
         "own_phase.SPC.options.continuations=2")  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "spoilt", "reward"),
    [("wrong", True, 1.0), ("correct", True, -1.0), (None, True, -1.0), ("uncertain", True, -1.0),
     ("correct", False, 1.0), ("wrong", False, -1.0), (None, False, -1.0)],
)  # fmt: skip
def test_the_critic_wins_by_seeing_what_is_there(verdict, spoilt, reward):
    assert critic_reward(verdict, spoilt) == reward


@pytest.mark.parametrize(
    ("after", "before", "valid"),
    [([0, 0], [1, 0], True), ([1, 0], [1, 0], False), ([1, 1], [1, 0], False), ([0, 0], [0, 0], False)],
)
def test_a_spoilt_step_must_mislead_the_solver(after, before, valid):
    assert is_valid(after, before) == valid


def test_the_advantage_is_the_reward_and_what_was_won_is_fitted_too():
    config = load_recipe("spc")
    loss = config.loss_of("grm")
    group = Group((act("grm", "wrong"),) * 3, tuple(Reward({"r": r}) for r in (1.0, -1.0, 1.0)))
    taught = lesson([group], config.advantage_of("grm"), loss, {})
    assert [signal.advantage for signal in taught.signals] == [1.0, -1.0, 1.0]
    assert [signal.success for signal in taught.signals] == [True, False, True]
    assert (loss.ratio_level, loss.clip_low, loss.clip_high, loss.sft_coef) == ("sequence", 0.2, 0.2, 0.15)


OVERRIDES = [
    'phases=["aslfast.systems.selfplay.spc:SPC"]', 'roles.policy.adapter="base"',
    'roles.policy.prompt="answer: {question}"', 'roles.generator.output=["step"]',
    'roles.generator.prompt="spoil {step} after {before}: {kind}"',
    'roles.past_generator.adapter="generator@previous"', 'roles.past_generator.output=["step"]',
    'roles.grm.output=["verdict"]', 'roles.grm.prompt="is it so: {step}"',
    'roles.past_grm.adapter="grm@previous"', 'roles.past_grm.output=["verdict"]',
    'own_phase.SPC.options.go_on="go on: {question}"', "own_phase.SPC.options.continuations=2",
    "own_phase.SPC.options.tries=2",
]  # fmt: skip


def game(make_context, number, spoilt="Bergen it is", solves=True, misled=True, verdict="wrong", step="answer"):
    """One play: (roles and rewards of its acts, failed checks, adapters that were asked)."""

    def script(prompt, seed):
        last = prompt.rpartition("user\n")[2]
        if last.startswith("answer: "):
            return ['<tool_call>{"name": "search", "arguments": {"query": "town"}}</tool_call>',
                    f"<answer>{'Oslo' if solves else 'Rome'}</answer>"]  # fmt: skip
        if last.startswith("go on: "):
            return [f"<answer>{'Rome' if misled and spoilt in prompt else 'Oslo'}</answer>"]
        if last.startswith("spoil "):
            return [f"<step>{spoilt}</step>"]
        return [f"<verdict>{verdict if spoilt in last else 'correct'}</verdict>"]

    context = make_context(script=script, overrides=[*OVERRIDES, f"own_phase.SPC.options.step={step}"])
    acts, play = play_once(SPC, context, Task("t", "generator", "", "Which town?", ("Oslo",)), number)
    asked = {request.adapter for request in context.rollout.sampler.requests}
    return [(a.task.role, play.settled(a, None)) for a in acts], play.context.counters.failed_checks, asked


def test_in_even_plays_the_generator_learns_against_the_earlier_critic(make_context):
    found = game(make_context, 0)
    assert found == ([("generator", -1.0)], {}, {None, "generator", "grm@previous"})


def test_in_odd_plays_the_critic_learns_against_the_earlier_generator(make_context):
    acts, failed, asked = game(make_context, 1, verdict="correct")
    assert acts == [("grm", -1.0), ("grm", 1.0)]  # it missed the spoilt step, and let the right one pass
    assert failed == {} and asked == {None, "grm", "generator@previous"}


def test_a_generator_that_is_not_seen_wins(make_context):
    assert game(make_context, 2, verdict="correct", step="any")[0] == [("generator", 1.0)]


@pytest.mark.parametrize(("changed", "failed"), [({"misled": False}, "misleads"), ({"spoilt": "oslo"}, "another")])
def test_a_step_that_misleads_nobody_earns_minus_one(make_context, changed, failed):
    acts, counted, _ = game(make_context, 0, **changed)
    ((role, reward),) = acts
    assert role == "generator" and reward == {failed: -1.0} and counted == {failed: 1}


def test_without_a_right_solution_nobody_learns(make_context):
    assert game(make_context, 0, solves=False)[:2] == ([("policy", None)], {"solved": 2})


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play_small("spc-tiny", tmp_path_factory.mktemp("spc") / "run", SMALL)


def test_generator_and_critic_learn_and_the_solver_does_not(played):
    assert played.moved == {"generator", "grm"}
    failed = {name for line in played.lines for name in line["failed_checks"]}
    assert failed == {"solved", "another", "misleads"}
    learnt = [row for row in played.rows if row["reward"] is not None]
    assert {row["role"] for row in learnt} == {"generator", "grm"}
    assert {row["reward"] for row in learnt} == {1.0, -1.0}
    fair = [row for row in learnt if row["role"] == "grm" and row["reward"] == (row["output"] == "correct") * 2 - 1]
    assert fair and len(fair) < sum(row["role"] == "grm" for row in learnt)  # right answers, and spoilt ones


def test_a_resume_gives_the_same_bits(played, tmp_path):
    assert play_killed("spc-tiny", tmp_path / "run", SMALL).same_as(played)
