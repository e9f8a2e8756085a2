"""Runs that start from adapters of another run: measured before they learn, kept, refused where they differ."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from aslfast.config import from_tree, load_recipe, to_toml, toml
from aslfast.config.roles import ROLES
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index
from aslfast.metrics.health import round_health
from aslfast.models import lora
from aslfast.trainer import train
from aslfast.trainer.session import open_session, read_run_config
from tests.support.tiny_models import tiny_model

SHORT = [
    "threads=1", "data.eval_count=60", "sampler.max_running_requests=64", "generator.steps=1",
    "generator.prompts_per_step=4", "grm.steps=2", "grm.prompts_per_step=4", "policy.steps=2",
    "policy.prompts_per_step=6", "learner.learning_rate=4e-3",
]  # fmt: skip


OF_STEPS = {"round", "seconds", "alarms", *round_health([], 0, 0)}  # of a line: what a round's steps say


def run(folder, *sets):
    """What was measured: the lines of rounds.jsonl without what time and the steps before them change."""
    train.train(load_recipe("tiny", [*SHORT, *sets], seed=5), folder)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in OF_STEPS} for line in lines]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first") / "run"
    return folder, run(folder, "rounds=1")


def starts(folder, *roles):
    return [f"roles.{role}.init_adapter={lora.latest(folder / 'adapters' / role)}" for role in roles]


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second") / "run"
    return folder, run(folder, "rounds=0", *starts(first[0], *ROLES))


def test_round_zero_measures_the_adapters_that_it_starts_from(first, second):
    before, after = first[1]
    for figure in ("policy_accuracy", "grm_accuracy", "solvable_share"):
        assert before[figure] != after[figure]  # else the next line would show nothing
    assert second[1] == [after]


def test_the_run_keeps_what_it_started_from(first, second):
    """As version 0, so that a role that has not learnt since is played with it, wherever the first run has gone."""
    config = read_run_config(second[0])
    index = BM25Index.open(second[0] / "lab" / "heldout.idx")
    for role in ROLES:
        start = lora.latest(first[0] / "adapters" / role)
        assert config.roles[role].init_adapter == str(start)
        kept, given = (load_file(f / lora.WEIGHTS) for f in (second[0] / "adapters" / role / "v0000", start))
        assert kept.keys() == given.keys() and all(torch.equal(kept[name], given[name]) for name in given)
        opened = open_session(str(second[0]), config, index, role)
        assert (opened.adapter_name, opened.version) == (role, 0)


def test_the_configuration_survives_its_file():
    config = load_recipe("tiny", ["roles.grm.init_adapter=some/where"])
    assert config.roles["grm"].init_adapter == "some/where" and not config.roles["policy"].init_adapter
    assert from_tree(toml.parse(to_toml(config)), "again") == config
    with pytest.raises(UserError, match=r"add the table roles.policy.*did you mean 'roles.policy' with 'roles.polcy'"):
        load_recipe("tiny", ["roles.polcy.init_adapter=x"])


def test_a_wrong_adapter_ends_the_run_before_it_writes(first, tmp_path):
    folder, _ = first
    with pytest.raises(UserError, match=r"set lora.rank=16 and lora.alpha=32"):
        run(tmp_path / "new", "rounds=0", "lora.rank=8", *starts(folder, "policy"))
    with pytest.raises(UserError, match=r"adapters/policy: no readable adapter .*; name .*/policy/v0002"):
        run(tmp_path / "new", "rounds=0", f"roles.policy.init_adapter={folder / 'adapters' / 'policy'}")
    assert not (tmp_path / "new").exists()


def peft_adapter(tokenizer, folder, **options):
    """Written by PEFT alone, as another project would."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": list(lora.TARGETS[:7]), "init_lora_weights": False}
    peft.get_peft_model(tiny_model(tokenizer), peft.LoraConfig(**{**settings, **options})).save_pretrained(folder)
    return folder


def test_an_adapter_that_peft_wrote(tokenizer, model, tmp_path):
    """In bfloat16 too: the master copy is float32."""
    folder = peft_adapter(tokenizer, tmp_path / "a", task_type="CAUSAL_LM")
    weights = load_file(folder / lora.WEIGHTS)
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, folder / lora.WEIGHTS)
    lora.load_adapter(model, "policy", folder)
    model.set_adapter("policy")
    loaded = peft.PeftModel.from_pretrained(tiny_model(tokenizer), folder).eval()
    ids = torch.tensor([[1, 5, 9, 200, 17, 3]])
    assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert {p.dtype for p in lora.parameters_of(model, "policy")} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, "it adapts q_proj, v_proj; here down_proj, .*target_modules"),
        ({"use_rslora": True}, "use_rslora is True; here only plain LoRA"),
        ({"use_dora": True}, "use_dora is True"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern is .*q_proj"),
        ({"lora_bias": True}, "lora_bias is True; here only plain LoRA"),
        ({"bias": "lora_only"}, "bias is lora_only; here only plain LoRA"),
        ({"layers_to_transform": [0]}, r"layers_to_transform is \[0\]; here only plain LoRA"),
        ({"layers_to_transform": 0}, r"layers_to_transform is 0; here only plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]; here only plain LoRA"),
        ({"r": 2}, "its rank is 2, its alpha 8; here 4, 8.0; set lora.rank=2 and lora.alpha=8"),
    ],
)
def test_adapters_that_mean_something_else_are_refused(options, message, tokenizer, model, tmp_path):
    folder = peft_adapter(tokenizer, tmp_path / "a", **options)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        lora.load_adapter(model, "policy", folder)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())


def test_a_config_without_its_rank_is_refused(tokenizer, model, tmp_path):
    folder = peft_adapter(tokenizer, tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["r"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"adapter_config\.json has no r"):
        lora.load_adapter(model, "policy", folder)
