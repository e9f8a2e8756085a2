"""Between playing and learning: revised rewards, replays, copies of adapters, evaluations; and earlier versions."""

import asyncio
import json

import pytest
import torch

from aslfast.config import load_recipe
from aslfast.core import Group, Question, Reward, StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.models import lora
from aslfast.rounds.revision import revised_groups, revision_counts
from aslfast.rounds.round import run_round

STEPS = ["steps=2", "tasks_per_step=2", "group_size=2"]


def speaker(prompt, seed):
    return [f"<answer>{'Oslo' if seed % 2 else 'Bergen'}</answer><|im_end|>"]


def settings(name, *more):
    own = [f"own_phase.{name}.{setting}" for setting in STEPS]
    return [f'phases=["tests.support.own.hooks:{name}"]', *own, *more]


def lines_of(context):
    asyncio.run(run_round(context))
    text = (context.checkpointer.run.path / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def weights(context, adapter):
    return [p.detach().clone() for p in lora.parameters_of(context.learner.model, adapter)]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def trajectory(task, *tokens):
    return Trajectory(
        Task(task, "policy", ""), tokens, (1,) * len(tokens), (0.0,) * len(tokens), (), StopReason.NO_OUTPUT
    )


def group(*pairs):
    return Group(tuple(t for t, _ in pairs), tuple(Reward({"r": r}) for _, r in pairs))


ONE, TWIN, TWO, OLD = trajectory("a", 1), trajectory("a", 1), trajectory("a", 2), trajectory("old", 3)


def test_the_record_has_each_trajectory_once_with_its_last_reward():
    played = [group((ONE, 0.0), (TWIN, 0.5), (TWO, 1.0))]
    revised = [group((ONE, 5.0), (TWIN, 6.0), (OLD, 7.0))]  # TWO is left out, OLD is replayed
    (found,) = revised_groups(played, revised)
    assert found.trajectories == (ONE, TWIN, TWO) and [r.total for r in found.rewards] == [5.0, 6.0, 1.0]
    assert revision_counts(played, revised) == {"replayed": 1, "left_out": 1}


def test_without_the_hook_nothing_is_counted():
    played = [group((ONE, 0.0))]
    assert revision_counts(played, played) == {} and revised_groups(played, played) == played


def test_a_step_learns_from_revised_rewards_and_replays(make_context):
    context = make_context(script=speaker, overrides=settings("Revised"))
    lines = lines_of(context)
    assert [line["reward"] for line in lines] == [1.0, 1.0]  # what the hook made of 0.5
    assert [(line["replayed"], line["left_out"]) for line in lines] == [(0, 0), (4, 0)]
    assert lines[1]["loss_tokens"] > 1.5 * lines[0]["loss_tokens"]


def test_copies_and_a_student_that_is_thrown_away(make_context):
    roles = ['roles.student.output=["answer"]', "roles.policy.depth=0"]
    context = make_context(script=speaker, overrides=settings("Student", *roles))
    before = weights(context, "policy")
    lines_of(context)
    gains = json.loads(context.state.own['["Student", "gains"]'])
    assert len(gains) == 2 and all(0 <= gain <= 1 for gain in gains)
    # a copy and one step, twice; the policy itself took two steps
    assert context.learner.version["student"] > context.learner.version["policy"] == 2
    assert not same(before, weights(context, "policy")) and not same(
        weights(context, "student"), weights(context, "policy")
    )


def test_a_copy_is_a_new_version_with_a_fresh_optimizer(make_context):
    context = make_context(script=speaker, overrides=["grm.steps=1"])
    learner = context.learner
    learner.version["policy"] = 4
    learner.copy("policy", "grm")
    assert learner.version["grm"] == 5 and same(weights(context, "policy"), weights(context, "grm"))
    assert not learner.optimizers["grm"].state
    with pytest.raises(UserError, match="phases: Mine copies the adapter 'nobody'; there are"):
        context.control("Mine").copy("nobody", "policy")


def test_the_previous_version_is_the_one_before_the_round(make_context):
    roles = ['roles.past.adapter="policy@previous"', "roles.policy.depth=0"]
    context = make_context(script=speaker, overrides=settings("Against", *roles))
    assert context.config.adapters == ("policy", "policy@previous") and context.config.learning_adapters == ("policy",)
    start = weights(context, "policy")
    lines = lines_of(context)
    assert same(start, weights(context, "policy@previous")) and not same(start, weights(context, "policy"))
    assert all("other_updates" not in line and set(line["roles"]) == {"policy", "past"} for line in lines)
    ended = weights(context, "policy")
    context.state.round += 1
    lines_of(context)
    assert same(ended, weights(context, "policy@previous"))


def test_a_frozen_role_plays_and_does_not_learn(make_context):
    roles = ["roles.past.frozen=true", "roles.policy.depth=0"]
    context = make_context(script=speaker, overrides=settings("Against", *roles))
    before = weights(context, "past")
    lines_of(context)
    assert same(before, weights(context, "past")) and context.learner.version == {"past": 0, "policy": 2}


def test_evaluation_counts_exact_matches(make_context):
    context = make_context(script=lambda *_: ["<answer>Oslo</answer><|im_end|>"], overrides=["grm.steps=1"])
    questions = [Question("a", "Which town?", ("Oslo",)), Question("b", "Which river?", ("Elbe",))]
    control = context.control("Mine")
    assert asyncio.run(control.evaluate("policy", questions, "answer: {question}", n=2)) == 0.5
    assert control.counters.sampled_tokens > 0
    with pytest.raises(UserError, match="phases: Mine evaluates policy on no questions"):
        asyncio.run(control.evaluate("policy", []))


def test_a_search_over_a_setting_tries_it_without_setting_it(make_context):
    context = make_context(script=lambda *_: ["<answer>Oslo</answer><|im_end|>"], overrides=["grm.steps=1"])
    questions, control = [Question("a", "Which town?", ("Oslo",))], context.control("Mine")
    for temperature in (0.5, 1.3):
        tried = control.trying("sampler.temperature", temperature)
        assert asyncio.run(tried.evaluate("policy", questions, "answer: {question}")) == 1.0
    requests = context.rollout.sampler.requests
    assert [request.temperature for request in requests] == [0.5, 1.3] and len({r.seed for r in requests}) == 1
    assert control.counters.sampled_tokens > 0 and context.state.settings == {}
    control.set("sampler.temperature", 0.5)
    assert context.state.settings == {"sampler.temperature": 0.5}
    with pytest.raises(UserError, match=r"set lora\.rank to 4: lora\.rank may not vary"):
        control.trying("lora.rank", 4)


def test_a_step_without_a_reward_is_skipped_with_a_word(make_context):
    context = make_context(script=speaker, overrides=settings("AllDropped"))
    said = []
    context.observer.warning = said.append
    asyncio.run(run_round(context))
    assert said == ["round 1: a AllDropped step is skipped, none of its plays has a reward"] * 2
    assert context.learner.version["policy"] == 0 and (1, "AllDropped") in context.state.phases_done


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ('roles.policy.adapter="nobody@previous"', "roles.policy.adapter is 'nobody@previous'; leave it empty, or use"),
        ('roles.policy.adapter="grm"', None),
        ('roles.policy.adapter="grm" roles.policy.frozen=true', "roles.policy.frozen is True; set it where"),
    ],
)
def test_adapters_that_do_not_exist_are_refused(setting, error):
    changes = [part.strip() for part in setting.split(" ")]
    if error is None:
        assert load_recipe("tiny", changes).adapters == ("generator", "grm")
        return
    with pytest.raises(UserError, match=error):
        load_recipe("tiny", changes)
