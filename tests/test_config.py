"""Recipes round-trip, and what is wrong in one is told in one line that names the key and the remedy."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aslfast import config
from aslfast.config import RunConfig, from_tree, load_recipe, recipe_names, to_toml, tomllib
from aslfast.errors import UserError


def refused(match, *overrides):
    with pytest.raises(UserError, match=match) as raised:
        load_recipe("tiny", overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_round_trip(name):
    resolved = load_recipe(name, seed=7)
    assert resolved.recipe == name and resolved.seed == 7
    assert from_tree(tomllib.loads(to_toml(resolved)), "again") == resolved


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.floats(1e-12, 1e12), st.integers(0, 1 << 60))
def test_any_values_round_trip(text, rate, seed):
    model = config.ModelConfig(path=text)
    learner = dataclasses.replace(RunConfig().learner, learning_rate=rate)
    resolved = RunConfig(seed=seed, model=model, learner=learner)
    assert from_tree(tomllib.loads(to_toml(resolved)), "again") == resolved


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
        ("generator.hops=2", r"generator.hops is 2; it takes a list of whole numbers"),
        ("generator.hops=[]", r"generator.hops is \[\]; it takes a list"),
        ("generator.hops=[1, true]", r"generator.hops is .*; it takes a list"),
        ("model=lab", r"model is a table; set a key inside it, for example model.path"),
        ("seed.x=1", r"seed is {'x': 1}; it takes a value of type int"),
        ("policy.steps=-1", r"policy.steps is -1; it must be at least 0"),
        ("policy.samples=0", r"policy.samples is 0; it must be above 0"),
        ("generator.hops=[0]", r"generator.hops is 0; it must be above 0"),
        ("learner.learning_rate=0", r"learner.learning_rate is 0.0; it must be above 0"),
        ("learner.learning_rate=nan", r"learner.learning_rate is nan; it must be above 0"),
        ("learner.grad_clip=inf", r"learner.grad_clip is inf; it must be above 0"),
        ("sampler.temperature=-1", r"sampler.temperature is -1.0; it must be at least 0"),
        ("generator.accept_share=1.5", r"generator.accept_share is 1.5; it must be between 0 and 1"),
        ("loss.dual_clip=0.5", r"loss.dual_clip is 0.5; it must be 0 \(off\) or above 1"),
        ("sampler.engine_timeout_s=0", r"sampler.engine_timeout_s is 0.0; it must be above 0"),
        ("sampler.engine_restarts=-1", r"sampler.engine_restarts is -1; it must be at least 0"),
        ("sampler.gpu_memory=1", r"sampler.gpu_memory is 1.0; it must be above 0 and below 1"),
        ("sampler.kind=sglan", r"sampler.kind is 'sglan'; did you mean 'sglang'\?; use one of local, sglang"),
        ("grm.label=referense", r"grm.label is 'referense'; did you mean 'reference'\?; use one of reference"),
        ("learner.layout=packt", r"learner.layout is 'packt'; did you mean 'packed'"),
        ("model.dtype=float8", r"model.dtype is 'float8'.*use one of float32, bfloat16"),
        ("model.prompts=long", r"model.prompts is 'long'.*compact"),
        ("policy.steps", r"--set policy.steps: write it as key=value"),
        ("=3", r"--set =3: write it as key=value"),
    ],
)
def test_bad_overrides(override, line):
    refused(line, override)


def test_overrides():
    numbers = ["policy.steps=3", "learner.learning_rate=2", "generator.hops=[2]", "policy.learn=false"]
    made = load_recipe("tiny", [*numbers, "model.path=/a b/ü#1", ' data.topics = "quoted" ', "policy.steps=4"])
    assert made.policy.steps == 4 and made.policy.learn is False
    assert made.learner.learning_rate == 2.0 and type(made.learner.learning_rate) is float
    assert made.generator.hops == (2,)
    assert made.model.path == "/a b/ü#1" and made.data.topics == "quoted"


def test_every_choice_is_accepted():
    for key, choices in config.CHOICES.items():
        for choice in choices:
            load_recipe("tiny", [f"{key}={choice}"])


def test_bad_recipes(tmp_path):
    def refused_file(content, match):
        path = tmp_path / "mine.toml"
        path.write_bytes(content)
        with pytest.raises(UserError, match=match) as raised:
            load_recipe(str(path))
        assert "mine.toml" in str(raised.value)

    refused_file(b"seed = ", "not valid TOML")
    refused_file(b"\xff\xfe", "not UTF-8")
    refused_file(b"[policy]\nstps = 3", r"unknown key 'policy.stps'; did you mean 'policy.steps'")
    refused_file(b"policy = 3", "policy is a table")
    with pytest.raises(UserError, match=r"no such recipe file"):
        load_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match=r"unknown recipe 'tinny'; did you mean 'tiny'"):
        load_recipe("tinny")


def test_choices_name_real_keys():
    """A choice list for a key that was renamed would check nothing."""
    for key in config.CHOICES:
        assert re.fullmatch(r"\w+\.\w+", key)
        assert isinstance(config._lookup(RunConfig(), key), str)
    names = {f.name for table in dataclasses.fields(RunConfig) for f in _fields(getattr(RunConfig(), table.name))}
    names |= {f.name for f in dataclasses.fields(RunConfig)}
    assert not (config._MAY_BE_ZERO | config._AT_MOST_ONE) - names


def _fields(value):
    return dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
