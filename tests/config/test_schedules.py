"""Schedules: the value of each step by hand, how they are written, and what is refused, in one line."""

import math
import re
from pathlib import Path

import pytest

from aslfast.config import from_tree, load_recipe, to_toml, toml
from aslfast.config.changes import settings
from aslfast.config.schedules.effective import MAY_VARY, check_settings, settings_at, with_settings
from aslfast.config.schedules.table import At, ScheduleConfig, value_at
from aslfast.config.toml import tree_of
from aslfast.errors import UserError
from aslfast.trainer.preflight import dry_run

PAGE = (Path(__file__).parents[2] / "docs" / "recipes" / "schedules.md").read_text(encoding="utf-8")
RATE = "schedule.learner.learning_rate"


def step_of(config, at, given=None):
    """The configuration of a step."""
    return with_settings(config, settings_at(config, at, given or {}))


def curve(steps, rounds=1, **table):
    schedule = ScheduleConfig(**table)
    return [value_at(schedule, At(r, s, steps), rounds) for r in range(1, rounds + 1) for s in range(steps)]


def test_a_cosine_with_a_warm_up_is_the_formula():
    found = curve(25, rounds=4, values=(3e-4, 2e-5), warmup=9)
    rising = [3e-4 * (step + 1) / 10 for step in range(9)]
    falling = [2e-5 + 0.5 * (3e-4 - 2e-5) * (1 + math.cos(math.pi * n / 90)) for n in range(91)]
    assert found == pytest.approx(rising + falling, rel=1e-12)
    assert found[9] == 3e-4 and found[-1] == 2e-5


def test_a_line():
    assert curve(5, values=(1.0, 0.0), shape="linear") == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert curve(3, rounds=2, values=(0.0, 5.0), shape="linear") == pytest.approx([0, 1, 2, 3, 4, 5], abs=1e-12)


def test_over_each_round_it_starts_again():
    once = curve(6, values=(1.0, 0.1), warmup=2)
    assert curve(6, rounds=3, values=(1.0, 0.1), warmup=2, over="round") == once * 3


def test_by_round_the_last_value_holds():
    assert curve(2, rounds=4, by_round=(1.0, 0.9)) == [1.0, 1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]


@pytest.mark.parametrize(("values", "shape"), [((0.1, 0.1), "cosine"), ((0.1, 1.0), "linear"), ((1.0, 0.3), "cosine")])
def test_no_rounding_leads_beyond_the_ends(values, shape):
    found = curve(997, values=values, shape=shape)
    assert (found[0], found[-1]) == values and min(values) == min(found) and max(found) == max(values)


def test_one_step_has_the_first_value():
    assert curve(1, values=(2.0, 1.0)) == [2.0]


def test_the_configuration_of_a_step_has_all_of_them():
    config = load_recipe("tiny", [
        f"{RATE}.values=[1e-3, 1e-4]", f"{RATE}.shape=linear", "schedule.policy.group_size.values=[4, 9]",
        "schedule.roles.policy.loss.clip_low.by_round=[0.1, 0.2]", "schedule.roles.policy.temperature.by_round=[0.5]",
    ])  # fmt: skip
    now = step_of(config, At(2, 3, 8))  # step 11 of 0 to 23
    assert now.learner.learning_rate == pytest.approx(1e-3 - 9e-4 * 11 / 23, rel=1e-12)
    assert now.policy.group_size == round(9 - 5 * (1 + math.cos(math.pi * 11 / 23)) / 2) == 6
    assert now.loss_of("policy").clip_low == 0.2 and now.loss_of("grm").clip_low == config.loss.clip_low
    assert now.temperature_of("policy") == 0.5 and now.temperature_of("grm") == config.sampler.temperature
    changed = {key for key, value in settings(now).items() if value != settings(config).get(key)}
    assert changed == {
        "learner.learning_rate", "policy.group_size", "roles.policy.loss.clip_low", "roles.policy.temperature",
    }  # fmt: skip


def test_settings_stand_over_schedules():
    config = load_recipe("tiny", [f"{RATE}.values=[1e-3, 1e-4]"])
    given = {"learner.learning_rate": 0.5, "loss.kind": "cispo", "advantage.drop_zero_variance": False}
    now = step_of(config, At(1, 0, 8), given)
    assert now.learner.learning_rate == 0.5 and now.loss.kind == "cispo" and not now.advantage.drop_zero_variance


def test_without_schedules_and_settings_it_is_the_recipe_itself():
    config = load_recipe("tiny")
    assert step_of(config, At(1, 0, 8)) is config and "schedule" not in to_toml(config)


def test_the_key_may_be_quoted(tmp_path):
    file = tmp_path / "quoted.toml"
    file.write_text('extends = "tiny"\n[schedule."learner.learning_rate"]\nvalues = [1e-3, 1e-4]\n')
    config = load_recipe(str(file))
    assert config.schedule == load_recipe("tiny", [f"{RATE}.values=[1e-3, 1e-4]"]).schedule
    assert from_tree(toml.parse(to_toml(config)), "again") == config == from_tree(tree_of(config), "again")


@pytest.mark.parametrize("recipe", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_the_pages_recipes_load(recipe, tmp_path):
    (tmp_path / "recipe.toml").write_text(recipe)
    config = load_recipe(str(tmp_path / "recipe.toml"))
    told = dry_run.describe(config)
    assert config.schedule and all(f"\nschedule of {key}: {said}\n" in told for key, said in config.schedule.items())
    rate = "cosine from 0.002 to 0.0002 over each phase's steps of the run, after 4 steps of warm-up"
    assert f"schedule of learner.learning_rate: {rate}" in told and "by round 1, 0.9, 0.8" in told


def test_the_page_lists_the_keys_that_may_vary():
    told = PAGE.partition("| keys | read |")[2].partition("All others are refused")[0]
    named = set(re.findall(r"`([\w.*]+)`", told))
    assert named - {"config", "options"} == set(MAY_VARY)


LINE = "[1e-3, 1e-4]"


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["schedule.lerner.learning_rate.by_round=[1]"], "unknown key 'lerner'; did you mean 'learner'"),
        (["schedule.learner.learning_rat.by_round=[1]"], "did you mean 'learner.learning_rate'"),
        ([f"{RATE}.value={LINE}"], f"did you mean '{RATE}.values'"),
        (["schedule.roles.polcy.temperature.by_round=[1]"], "unknown role 'polcy'; did you mean 'policy'"),
        (["schedule.policy.steps.x.by_round=[1]"], "unknown key 'policy.steps.x'; steps is a value"),
        ([f"{RATE}.values=[1e-3, 11]"], f"{RATE}: learner.learning_rate is 11.0; it must be above 0 and at most 10"),
        ([f"{RATE}.values=[0, 1]"], "learner.learning_rate is 0.0; it must be above 0"),
        ([f"{RATE}.values=[1e-3]"], "write the first and the last value of a curve, or by_round"),
        ([f"{RATE}.values={LINE}", f"{RATE}.by_round=[1]"], "by_round stands alone"),
        ([f"{RATE}.values={LINE}", f"{RATE}.warmup=24"], "warmup is 24, and no phase has more than 24 steps"),
        ([f"{RATE}.values={LINE}", f"{RATE}.over=run1"], f"{RATE}.over is 'run1'; did you mean 'run'"),
        ([f"{RATE}=3"], f"unknown key '{RATE}'"),
        (["schedule=3"], "schedule is a table"),
        (["schedule.loss.dual_clip.values=[0, 3]"], r"loss.dual_clip is 0.\d+; it must be 0 \(off\) or above 1"),
        (["schedule.sampler.temperature.values=[1, 0]"], "sampler.temperature is 0, and greedy rollouts teach nothing"),
        (["schedule.policy.group_size.by_round=[3, 4.5]"], "policy.group_size is 4.5; it takes a value of type int"),
        (["schedule.sampler.max_turns.values=[9, 0]"], "sampler.max_turns is 0; it must be above 0"),
        (["loss.tis_cap=3", "schedule.loss.tis_floor.values=[0, 5]"], "it must be below loss.tis_cap, 3"),
        (["schedule.lora.rank.by_round=[8]"], "lora.rank may not vary: files, the model, the tools, the plan"),
        *(
            ([f"schedule.{key}.by_round=[2]"], f"{key} may not vary")
            for key in ("rounds", "seed", "threads", "policy.steps", "model.dtype", "data.eval_count", "grm.folds",
                        "sampler.max_context", "learner.micro_batch_tokens", "advantage.group_by", "tool.top_k",
                        "roles.policy.depth")
        ),
    ],
)  # fmt: skip
def test_what_is_refused(overrides, error):
    with pytest.raises(UserError, match=error) as raised:
        load_recipe("tiny", overrides)
    assert "\n" not in str(raised.value) and str(raised.value).startswith(f"--set {overrides[-1]}"[:30])


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("learner.learning_rate", 11.0, "set learner.learning_rate to 11.0: learner.learning_rate is 11.0; it must be"),
        ("policy.group_size", "many", "set policy.group_size to 'many': policy.group_size is 'many'; it takes"),
        ("lora.rank", 3, "set lora.rank to 3: lora.rank may not vary"),
        ("learner.learning_rat", 1e-3, "unknown key 'learner.learning_rat'; did you mean 'learner.learning_rate'"),
        ("advantage.rescale", "my:code", "set advantage.rescale to 'my:code': advantage.rescale may not vary"),
        ("loss.tis_cap", 0.3, "set loss.tis_cap to 0.3: loss.tis_floor is 0.5; it must be below loss.tis_cap, 0.3"),
    ],
)
def test_what_may_not_be_set(key, value, error):
    config = load_recipe("tiny", ["loss.tis_cap=3", "schedule.loss.tis_floor.values=[0, 0.5]"])
    with pytest.raises(UserError, match=error):
        check_settings(config, {key: value}, key)
    check_settings(config, {"loss.tis_cap": 0.6}, "loss.tis_cap")
