"""Schedules and settings in a round: sampler, learner, loss and one's own phase have what the step says."""

import math
from dataclasses import replace

import pytest

from aslfast.errors import UserError
from aslfast.rounds.context import RoundContext
from tests.support.scripted_world import actors, play

SCHEDULES = [
    "schedule.learner.learning_rate.values=[1e-3, 1e-4]", "schedule.learner.grad_clip.by_round=[0.5]",
    "schedule.learner.weight_decay.by_round=[0.25]",
    "schedule.loss.clip_high.values=[0.5, 0.1]", "schedule.loss.clip_high.shape=linear",
    "schedule.roles.grm.loss.clip_high.by_round=[0.05, 0.04]",
    "schedule.sampler.temperature.values=[1.0, 0.5]", "schedule.sampler.temperature.shape=linear",
    "schedule.roles.grm.temperature.by_round=[0.3, 0.2]", "schedule.policy.group_size.by_round=[3, 2]",
    "sampler.max_new_tokens=400", "schedule.sampler.max_turns.by_round=[3, 2]", "rounds=2",
]  # fmt: skip


def seen(monkeypatch, context: RoundContext) -> list[dict]:
    """What each of the learner's steps has, in order."""
    steps, real = [], context.learner.step

    def step(adapter, trajectories, signals):
        stats = real(adapter, trajectories, signals)
        learner = context.learner
        (group,) = learner.optimizers[adapter].param_groups
        steps.append({
            "adapter": adapter, "rate": group["lr"], "decay": group["weight_decay"], "clip": learner.config.grad_clip,
            "clip_high": learner.loss.clip_high, "temperature": learner.packed_model.temperature,
        })  # fmt: skip
        return stats

    monkeypatch.setattr(context.learner, "step", step)
    return steps


def cosine(n):
    return 1e-4 + 0.5 * (1e-3 - 1e-4) * (1 + math.cos(math.pi * n / 3))


def test_every_part_has_what_the_step_says(make_context, monkeypatch):
    context = make_context(script=actors(right=0.4), overrides=[*SCHEDULES, "advantage.drop_zero_variance=false"])
    steps, sampled = seen(monkeypatch, context), context.rollout.sampler.requests
    for number in (1, 2):
        context.state.round, before = number, len(sampled)
        lines = play(context)[-6:]
        temperatures = {r.adapter: set() for r in sampled[before:]}
        for request in sampled[before:]:
            temperatures[request.adapter].add(request.temperature)
        own = 1.0 - 0.5 * (2 * number - 2) / 3, 1.0 - 0.5 * (2 * number - 1) / 3  # steps 2r - 2 and 2r - 1 of 0 to 3
        assert sorted(temperatures["policy"]) == pytest.approx(sorted(own), rel=1e-12)
        assert temperatures["grm"] == {(0.3, 0.2)[number - 1]}
        for line, step in zip(lines, steps[-6:], strict=True):
            n, judge = 2 * (number - 1) + line["step"] - 1, line["phase"] == "grm"
            assert step["adapter"] == line["phase"] and step["clip"] == 0.5 and step["decay"] == 0.25
            assert step["rate"] == pytest.approx(cosine(n), rel=1e-12)
            clip = (0.05, 0.04)[number - 1] if judge else 0.5 - 0.4 * n / 3
            temperature = (0.3, 0.2)[number - 1] if judge else 1 - 0.5 * n / 3
            assert step["clip_high"] == pytest.approx(clip, rel=1e-12)
            assert step["temperature"] == pytest.approx(temperature, rel=1e-12)
            assert line["settings"]["learner.learning_rate"] == step["rate"] and len(line["settings"]) == 9
        assert [line["trajectories"] for line in lines[-2:]] == [4 * (4 - number)] * 2
        assert len(steps) == 6 * number


def test_learner_and_sampler_agree_at_another_temperature(make_context):
    """On the real sampler: a learner at another temperature than the rollouts' would differ by far more."""
    overrides = ["advantage.drop_zero_variance=false", "schedule.sampler.temperature.values=[2.0, 0.5]", "rounds=1"]
    lines = play(make_context(overrides=overrides))
    assert all(0 < line["mismatch_max"] < 1e-3 for line in lines if line["grad_norm"])


def test_a_recipe_without_schedules_has_the_lines_of_before(make_context):
    assert all("settings" not in line for line in play(make_context(script=actors())))


def test_what_is_set_holds_from_the_next_step_on(make_context, monkeypatch):
    context = make_context(script=actors(right=0.4), overrides=["advantage.drop_zero_variance=false"])
    steps, first = seen(monkeypatch, context), context.phases[0]

    def after_phase(state):
        context.set("learner.learning_rate", 0.004)
        context.set("advantage.drop_zero_variance", True)

    context.phases = [replace(first, after_phase=after_phase), *context.phases[1:]]
    lines = play(context)
    rates = [step["rate"] for step in steps]
    assert rates[:2] == [context.config.learner.learning_rate] * 2 and set(rates[2:]) == {0.004}
    given = {"learner.learning_rate": 0.004, "advantage.drop_zero_variance": True}
    assert ["settings" in line for line in lines] == [False, False, *[True] * 4] and lines[-1]["settings"] == given
    assert context.state.settings == given
    with pytest.raises(UserError, match=r"set learner.learning_rate to 99: learner.learning_rate is 99.0; it must be"):
        context.set("learner.learning_rate", 99)
    with pytest.raises(UserError, match=r"set lora.rank to 3: lora.rank may not vary"):
        context.set("lora.rank", 3)
    assert context.state.settings == given


def test_a_phase_of_ones_own_has_the_options_of_the_step(make_context):
    path, name = "tests.support.own.phases:Told", "own_phase.Told"
    context = make_context(script=lambda *_: ["<answer>Rome</answer>"], overrides=[
        f'phases=["{path}"]', f"{name}.steps=3", f"{name}.tasks_per_step=1", f"{name}.options.bonus=9.0",
        f"schedule.{name}.options.bonus.values=[1.0, 0.0]", f"schedule.{name}.options.bonus.shape=linear", "rounds=1",
        "schedule.format_weight.by_round=[0.7]", "sampler.max_new_tokens=400",
    ])  # fmt: skip
    lines = play(context)
    assert [line["reward_parts"] for line in lines] == [{"bonus": b, "weight": 0.7} for b in (1.0, 0.5, 0.0)]


def test_a_phase_of_ones_own_sets_keys_for_later_rounds(make_context):
    path, name = "tests.support.own.phases:Searching", "own_phase.Searching"
    context = make_context(script=lambda *_: ["<answer>Rome</answer>"], overrides=[
        f'phases=["{path}"]', f"{name}.steps=1", f"{name}.tasks_per_step=1", f"{name}.options.bonus=9.0",
    ])  # fmt: skip
    for number in (1, 2, 3):
        context.state.round = number
        lines = play(context)
    assert [line["reward_parts"]["bonus"] for line in lines] == [9.0, 10.0, 20.0]
    assert [line.get("settings", {}).get("learner.learning_rate") for line in lines] == [None, 1e-3, 2e-3]
