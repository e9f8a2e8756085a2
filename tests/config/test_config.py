"""Recipes round-trip, and what is wrong in one is told in one line that names the key and the remedy."""

import dataclasses
import typing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aslfast.config import (
    RunConfig,
    about_recipe,
    algorithms,
    from_tree,
    load_recipe,
    recipe_names,
    renamed,
    schema,
    to_toml,
    toml,
)
from aslfast.errors import UserError


def refused(match, *overrides):
    with pytest.raises(UserError, match=match) as raised:
        load_recipe("tiny", overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_round_trip(name):
    resolved = load_recipe(name, seed=7)
    assert resolved.recipe == name and resolved.seed == 7
    assert from_tree(toml.parse(to_toml(resolved)), "again") == resolved


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
    st.floats(1e-12, 10.0),
    st.integers(0, 1 << 60),
)
def test_any_values_round_trip(text, rate, seed):
    model = schema.ModelConfig(path=text)
    learner = dataclasses.replace(RunConfig().learner, learning_rate=rate)
    resolved = RunConfig(seed=seed, model=model, learner=learner)
    assert from_tree(toml.parse(to_toml(resolved)), "again") == resolved


def test_a_saved_config_is_a_recipe(tmp_path):
    saved = tmp_path / "config.toml"
    saved.write_text(to_toml(load_recipe("tiny", ["policy.steps=3"])))
    assert load_recipe(str(saved)) == load_recipe("tiny", ["policy.steps=3"])


@pytest.mark.parametrize(
    "override, line",
    [
        ("policy.step=3", r"unknown key 'policy.step'; did you mean 'policy.steps'"),
        ("polcy.steps=3", r"unknown key 'polcy'; did you mean 'policy'"),
        ("sed=3", r"unknown key 'sed'; did you mean 'seed'"),
        ("learner.learning_rat=1", r"'learner.learning_rat'; did you mean 'learner.learning_rate'"),
        ("zzzzzzzz=3", r"unknown key 'zzzzzzzz'$"),
        ("policy.steps=many", r"policy.steps is 'many'; it takes a value of type int"),
        ("policy.steps=1.5", r"policy.steps is 1.5; it takes a value of type int"),
        ("policy.steps=true", r"policy.steps is True; it takes a value of type int"),
        ("policy.learn=1", r"policy.learn is 1; it takes a value of type bool"),
        ("policy.learn=yes", r"policy.learn is 'yes'; it takes a value of type bool"),
        ("model.path=3", r"model.path is 3; it takes a value of type str"),
        ("learner.learning_rate=fast", r"learner.learning_rate is 'fast'; it takes a value of type float"),
        ("generator.hops=2", r"generator.hops is 2; it takes a list, for example"),
        ("generator.hops=[]", r"generator.hops is \[\]; it takes a list"),
        ("generator.hops=[1, true]", r"an entry of generator.hops is True; it takes a value of type int"),
        ("model=lab", r"model is a table; set a key inside it, for example model.path"),
        ("seed.x=1", r"seed is {'x': 1}; it takes a value of type int"),
        ("policy.steps=-1", r"policy.steps is -1; it must be between 0 and 1,000,000"),
        ("policy.group_size=0", r"policy.group_size is 0; it must be above 0"),
        ("generator.hops=[0]", r"generator.hops is 0; it must be above 0"),
        ('generator.source=["topic", "with"]', r"generator.source is 'with'; did you mean 'width'"),
        (
            "generator.pass_rate_range=[0.8, 0.3]",
            r"generator.pass_rate_range is \[0.8, 0.3\]; write the lowest and the highest",
        ),
        ("generator.pass_rate_range=[0.3, 1.3]", r"generator.pass_rate_range is 1.3; it must be between 0 and 1"),
        ("grm.folds=3", r"grm.folds is 3; it must be between 1 and 2"),
        ('phases=["generator", "judge"]', r"phases is 'judge'; use one of sft, generator, grm, policy"),
        ("learner.learning_rate=0", r"learner.learning_rate is 0.0; it must be above 0"),
        ("learner.learning_rate=nan", r"learner.learning_rate is nan; it must be above 0"),
        ("learner.grad_clip=inf", r"learner.grad_clip is inf; it must be above 0"),
        ("sampler.temperature=-1", r"sampler.temperature is -1.0; it must be between 0 and 100"),
        ("generator.min_acceptance=1.5", r"generator.min_acceptance is 1.5; it must be between 0 and 1"),
        ("loss.dual_clip=0.5", r"loss.dual_clip is 0.5; it must be 0 \(off\) or above 1"),
        ("sampler.engine_timeout_s=0", r"sampler.engine_timeout_s is 0.0; it must be above 0"),
        ("sampler.engine_restarts=-1", r"sampler.engine_restarts is -1; it must be between 0 and 1,000"),
        ("sampler.gpu_memory_fraction=1", r"sampler.gpu_memory_fraction is 1.0; it must be above 0 and below 1"),
        ("sampler.kind=sglan", r"sampler.kind is 'sglan'; did you mean 'sglang'\?; use one of local, sglang"),
        ("grm.label=referense", r"grm.label is 'referense'; did you mean 'reference'\?; use one of reference"),
        ("learner.attention=flesh", r"learner.attention is 'flesh'; did you mean 'flash'"),
        ("algorithm=dopo", r"algorithm is 'dopo'; did you mean 'dapo'\?; use one of cispo, dapo, dr_grpo"),
        ("algorithm=3", r"algorithm is 3; it takes a value of type str"),
        ("loss.tis_cap=-1", r"loss.tis_cap is -1.0; it must be between 0 and 1,000,000,000"),
        ("generator.reward=entrpy", r"generator.reward is 'entrpy'; did you mean 'entropy'"),
        ("policy.reward=exact", r"policy.reward is 'exact'; did you mean 'exact_match'"),
        ("grm.variant=rank", r"grm.variant is 'rank'; did you mean 'ranking'"),
        ("policy.verdicts_per_answer=0", r"policy.verdicts_per_answer is 0; the reward 'majority' needs 1 or more"),
        ("model.dtype=float8", r"model.dtype is 'float8'.*use one of float32, bfloat16"),
        ("policy.steps", r"--set policy.steps: write it as key=value"),
        ("=3", r"--set =3: write it as key=value"),
    ],
)
def test_bad_overrides(override, line):
    refused(line, override)


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        (["policy.steps=many"], "--set policy.steps=many: policy.steps is"),
        (["policy.stepz=3"], "--set policy.stepz=3: unknown key 'policy.stepz'"),
        (["polcy.steps=3"], "--set polcy.steps=3: unknown key 'polcy'"),
        (["policy=3"], "--set policy=3: policy is a table"),
        (["rounds=1", "seed=-1", "rounds=2"], "--set seed=-1: seed is -1"),
        (["rounds=-1", "rounds=-2"], "--set rounds=-2: rounds is -2"),
        (["algorithm=cispo", "loss.dual_clip=3"], "--set loss.dual_clip=3: loss.dual_clip is of kind ppo"),
        (["policy.verdicts_per_answer=0"], "--set policy.verdicts_per_answer=0: policy.verdicts_per_answer is 0"),
        (["rounds=2"], "mine.toml: unknown key 'policy.stepz'"),
    ],
)
def test_an_error_names_the_option_that_made_it(overrides, place, tmp_path):
    """And the recipe for what no option set, also where an option set another key of the same table."""
    path = tmp_path / "mine.toml"
    path.write_text('extends = "tiny"\n' + "[policy]\nstepz = 3\n" * place.startswith("mine"))
    with pytest.raises(UserError) as raised:
        load_recipe(str(path), [*overrides, "policy.prompts_per_step=3"] if place.startswith("mine") else overrides)
    assert str(raised.value).removeprefix(f"{tmp_path}/").startswith(place)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_the_seeds_option_is_named(seed):
    with pytest.raises(UserError, match=rf"^--seed {seed}: seed is {seed}; it must be between 0 and 9,223,372"):
        load_recipe("tiny", seed=seed)


def test_texts_that_no_file_can_hold():
    refused(r"--set model.path=.*: model.path has a character that no file can hold", 'model.path="a\\u0000"')
    refused(r"model.path has a character that no file can hold", "model.path=a\udcff")


def test_recipes_that_extend_themselves(tmp_path):
    for name, other in (("a", "b"), ("b", "a"), ("c", "c")):
        (tmp_path / f"{name}.toml").write_text(f'extends = "{tmp_path}/{other}.toml"\n')
    for name in ("a", "c"):
        with pytest.raises(UserError, match=r"extends is '.*'; name one recipe, which does not extend this one"):
            load_recipe(str(tmp_path / f"{name}.toml"))
    (tmp_path / "c.toml").write_text("extends = 3\n")
    with pytest.raises(UserError, match="extends is 3; name one recipe"):
        load_recipe(str(tmp_path / "c.toml"))


def test_overrides():
    numbers = ["policy.steps=3", "learner.learning_rate=2", "generator.hops=[2]", "policy.learn=false"]
    made = load_recipe("tiny", [*numbers, "model.path=/a b/ü#1", ' data.topics = "quoted" ', "policy.steps=4"])
    assert made.policy.steps == 4 and made.policy.learn is False
    assert made.learner.learning_rate == 2.0 and type(made.learner.learning_rate) is float
    assert made.generator.hops == (2,)
    assert made.model.path == "/a b/ü#1" and made.data.topics == "quoted"


def settings(table=RunConfig, prefix=""):
    """Every key of a configuration, with its type and its field."""
    hints = typing.get_type_hints(table)
    for item in dataclasses.fields(table):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from settings(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, hints[item.name], item


def choices_of(kind, item):
    inner = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
    return item.metadata.get("choices") or (
        typing.get_args(inner) if typing.get_origin(inner) is typing.Literal else ()
    )


NEEDS = {  # what a choice is of use only with
    "environment": ["environment=my_code:MyEnvironment"],
    **{choice: ["loss.tis_cap=2"] for choice in ("sequence", "geometric", "mask")},
    "squared": ["loss.aggregate=sequence_mean"],
    **{choice: ["advantage.group_by=batch"] for choice in ("moving", "fifo_median")},
}


def test_every_choice_is_accepted():
    tried = 0
    for key, kind, item in settings():
        for choice in choices_of(kind, item):
            listed = typing.get_origin(kind) is tuple
            load_recipe("tiny", [f"{key}=[{choice!r}]" if listed else f"{key}={choice}", *NEEDS.get(choice, [])])
            tried += 1
    assert tried > 60


@pytest.mark.parametrize("number", ["1e308", "-1e308", "nan", str(2**63), str(2**64), "9" * 30, "-" + "9" * 400])
def test_every_number_has_bounds_that_are_said(number):
    """Beyond them one line names the key; a whole number too large for a float is no exception."""
    tried = 0
    for key, kind, item in settings():
        inner = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
        if inner in (int, float):
            assert "bounds" in item.metadata, key
            value = f"[{number}]" if inner is not kind else number
            refused(rf"{key} is .*; it (must be|takes a value)", f"{key}={value}")
            tried += 1
    assert tried > 50


def test_a_key_of_an_earlier_version_names_the_one_of_today():
    known = {key for key, _, _ in settings()} | {item.name for item in dataclasses.fields(RunConfig)}
    for old, new in renamed.RENAMED.items():
        assert new in known and old not in known
        refused(rf"unknown key '{old.split('.')[0] if old.startswith('ranks') else old}'; did you mean", f"{old}=1")
    assert renamed.renamed_key({"policy": {"steps": 1, "tasks": 2}}) == "policy.tasks"
    assert renamed.renamed_key({"policy": {"steps": 1}}) is None


def test_bad_recipes(tmp_path):
    def refused_file(content, match):
        path = tmp_path / "mine.toml"
        path.write_bytes(content)
        with pytest.raises(UserError, match=match) as raised:
            load_recipe(str(path))
        assert "mine.toml" in str(raised.value)

    refused_file(b"seed = ", "not valid TOML")
    refused_file(b"\xff\xfe", "not UTF-8")
    refused_file(b"seed = " + b"9" * 5000, "not valid TOML")
    refused_file(b"seed = " + b"[" * 5000, "not valid TOML")
    refused_file(b"[policy]\nstps = 3", r"unknown key 'policy.stps'; did you mean 'policy.steps'")
    refused_file(b"policy = 3", "policy is a table")
    with pytest.raises(UserError, match=r"no such recipe file"):
        load_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match=r"unknown recipe 'tinny'; did you mean 'tiny'"):
        load_recipe("tinny")


def test_an_algorithm_stands_under_what_the_recipe_says_and_over_what_came_before(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('algorithm = "gspo"\n[loss]\nclip_low = 0.01\n[learner]\nlearning_rate = 0.5\n')
    own = load_recipe(str(path))
    assert (own.algorithm, own.loss.ratio_level) == ("gspo", "sequence")
    assert (own.loss.clip_high, own.loss.clip_low) == (4e-4, 0.01)
    changed = load_recipe(str(path), ["loss.clip_low=0.3", "algorithm=dr_grpo", "loss.clip_high=0.5"])
    assert (changed.loss.clip_low, changed.loss.clip_high) == (0.2, 0.5)  # before it: replaced; after it: stays
    assert (changed.loss.aggregate, changed.advantage.scale) == ("constant", "none")
    assert changed.learner == own.learner
    assert load_recipe("tiny", ["algorithm=cispo"]).loss.kind == "cispo"


def test_algorithms_set_the_same_keys():
    """One then replaces another whole, whatever the one before it set."""
    keys = {name: {t: set(v) for t, v in algorithms.settings_of(name).items()} for name in algorithms.algorithm_names()}
    assert {str(sorted((t, sorted(v)) for t, v in tree.items())) for tree in keys.values()} == {
        str(sorted((t, sorted(v)) for t, v in keys["grpo"].items()))
    }
    loss = {f.name for f in dataclasses.fields(schema.LossConfig)} - {
        "tis_cap",
        "tis_floor",
        "tis_level",
        "tis_mode",  # a matter of the sampler
    }
    advantage = {f.name for f in dataclasses.fields(schema.AdvantageConfig)}
    assert keys["grpo"] == {"loss": loss, "advantage": advantage}


@pytest.mark.parametrize(
    ("line", "overrides"),
    [
        (r"loss.dual_clip is of kind ppo alone; with loss.kind=cispo set it to 0", "algorithm=cispo loss.dual_clip=3"),
        (r"loss.kind is 'nftt'; did you mean 'nft'\?; use one of ppo, cispo, nft, sft", "loss.kind=nftt"),
        (r"loss.ratio_level is of kinds ppo and cispo; with", "loss.kind=nft loss.ratio_level=sequence"),
        (r"loss.tis_cap is of kinds ppo and cispo; with loss.kind=sft set it to 0", "loss.kind=sft loss.tis_cap=2"),
        (r"loss.cov_fraction is of kinds ppo and cispo", "loss.kind=sft loss.cov_fraction=0.1"),
        (r"loss.success is 'advantage'; with loss.kind=nft", "loss.kind=nft loss.success=advantage"),
        (r"--set loss.tis_mode=mask: .* are of use only with loss.tis_cap", "loss.tis_mode=mask"),
        (r"loss.tis_floor is 3; it must be below loss.tis_cap, 2", "loss.tis_cap=2 loss.tis_floor=3"),
        (r"loss.cov_low is 50; it must be below loss.cov_high, 40", "loss.cov_low=50"),
        (r"advantage.baseline is 'moving', and a prompt is seen once", "advantage.baseline=moving"),
        (r"advantage.group_by is 'hop'; did you mean 'hops'.* or module:name of your own", "advantage.group_by=hop"),
        (r"advantage.rescale is 'usable'; did you mean 'usable_groups'", "advantage.rescale=usable"),
        (r"advantage.decay is 1.0; it must be at least 0 and below 1", "advantage.decay=1"),
    ],
)
def test_options_that_exclude_each_other(line, overrides):
    refused(line, *overrides.split())


def test_a_recipe_extends_another(tmp_path):
    """Its own settings stand over those of the other, table by table; the algorithm's under both."""
    path = tmp_path / "mine.toml"
    path.write_text('extends = "tiny"\nseed = 5\n[policy]\nsteps = 3\n[loss]\nclip_low = 0.1\n')
    mine, tiny = load_recipe(str(path)), load_recipe("tiny")
    assert (mine.recipe, mine.seed, mine.policy.steps, mine.loss.clip_low) == ("mine", 5, 3, 0.1)
    assert (mine.policy.prompts_per_step, mine.loss.clip_high, mine.grm) == (
        tiny.policy.prompts_per_step,
        tiny.loss.clip_high,
        tiny.grm,
    )
    path.write_text('extends = "tinny"\n')
    with pytest.raises(UserError, match="unknown recipe 'tinny'; did you mean 'tiny'"):
        load_recipe(str(path))
    path.write_text('extends = "search-r1-tiny"\nseed = 5\n')  # that one extends another
    assert load_recipe(str(path)).phases == ("policy",) and load_recipe(str(path)).data.lab


# --- what a recipe says of itself ----------------------------------------------------------------------------------


def test_a_recipe_of_ones_own_tells_what_it_adds(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('extends = "search-r1"\n[about]\nof = "search-r1"\nline = "Mine."\ndeviations = ["Twice."]\n')
    about, theirs = about_recipe(str(file)), about_recipe("search-r1")
    assert (about.line, about.paper, about.rewards) == ("Mine.", theirs.paper, theirs.rewards)
    assert about.deviations == (*theirs.deviations, "Twice.") and about.needs == ()
    assert replace(load_recipe(str(file)), recipe="search-r1") == load_recipe("search-r1")


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("about = 3", "about is a table"),
        ('about.lime = "x"', "unknown key about.lime"),
        ("about.line = 3", "about.line is 3; it takes a text"),
        ('about.flow = "x"', "about.flow is 'x'; it takes a list of texts"),
        ("about.roles.policy = 1", "it takes a table of texts"),
        ('about.needs = ["gold"]', "about.needs has 'gold'; use labels"),
    ],
)
def test_what_a_recipe_may_not_say_of_itself(told, why, tmp_path):
    (tmp_path / "mine.toml").write_text(f'{told}\nextends = "tiny"\n')
    with pytest.raises(UserError, match=f"mine.toml: .*{why}"):
        load_recipe(str(tmp_path / "mine.toml"))
