"""Exports: the merged model and the adapter, loaded by transformers and PEFT alone, are the trained policy."""

import json
import os

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from aslfast.errors import UserError
from aslfast.models import lora
from aslfast.models.base_model import load_base
from aslfast.trainer.export import AdapterSource, export_adapter, export_merged, hub_name
from tests.support.faults.small_disk import small_disk
from tests.support.tiny_models import stir, tiny_model

ROW = torch.arange(3, 120)[None] % 250


@pytest.fixture(scope="module")
def source(tmp_path_factory, tokenizer):
    """A base, and an adapter of one of its roles that moves its log-probs by nats."""
    root = tmp_path_factory.mktemp("export")
    base = tiny_model(tokenizer)
    base.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, temperature=0.3, do_sample=True)
    base.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    model = lora.add_adapters(base, 4, 8.0, 0, ("grm", "policy"))
    stir(model, scale=0.3)
    adapter = lora.save_adapter(model, "grm", root / "adapters", 7)
    return AdapterSource(root / "base", "owner/base", adapter, "grm", "- version: 7\n")


def logprobs(model):
    with torch.no_grad():
        return model(input_ids=ROW).logits.float().log_softmax(-1)


def trained(source, dtype=torch.float32):
    """The log-probs of the base with the adapter beside it, as a run has them."""
    model = lora.add_adapters(load_base(source.base, dtype)[0], 4, 8.0, 0, ("grm",))
    lora.load_adapter(model, "grm", source.adapter)
    return logprobs(model)


def test_a_merged_model_has_the_adapters_logprobs(source, tmp_path):
    """Within 1e-4 in float32, where the adapter itself moves them by more than 1."""
    export_merged(source, tmp_path / "m", torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert not [name for name in merged.state_dict() if "lora" in name]
    wanted = trained(source)
    assert float((logprobs(merged) - wanted).abs().max()) <= 1e-4
    assert float((logprobs(load_base(source.base)[0]) - wanted).abs().max()) > 1


def test_a_merged_model_in_half_precision_is_as_near_as_its_rounding(source, tmp_path):
    """Rounded once more than the base: at most three times as far from float32 as base and adapter in bfloat16."""
    export_merged(source, tmp_path / "m", torch.bfloat16)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto")
    assert merged.dtype == torch.bfloat16
    exact = trained(source)
    own = float((trained(source, torch.bfloat16) - exact).abs().mean())
    assert float((logprobs(merged) - exact).abs().mean()) <= 3 * own


def test_what_comes_with_a_merged_model(source, tokenizer, tmp_path):
    """Config and generation settings of the base, its tokenizer byte for byte, safetensors, a note."""
    export_merged(source, tmp_path / "m", torch.float32)
    files = {p.name for p in (tmp_path / "m").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} < files
    for file in source.base.glob("tokenizer*"):
        assert (tmp_path / "m" / file.name).read_bytes() == file.read_bytes()
    own = AutoTokenizer.from_pretrained(tmp_path / "m")
    chat = [{"role": "user", "content": "hi"}]
    assert own.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(chat, tokenize=False)
    settings = GenerationConfig.from_pretrained(tmp_path / "m")
    assert (settings.eos_token_id, settings.temperature) == (tokenizer.eos_token_id, 0.3)
    note = (tmp_path / "m" / "README.md").read_text()
    assert "- base: owner/base\n- version: 7\n" in note and str(source.base) not in note


def test_a_peft_folder_names_its_base(source, tmp_path):
    export_adapter(source, tmp_path / "a")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {lora.WEIGHTS, lora.CONFIG, "README.md"}
    assert json.loads((tmp_path / "a" / lora.CONFIG).read_text())["base_model_name_or_path"] == "owner/base"
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(source.base), tmp_path / "a")
    assert torch.equal(logprobs(loaded), trained(source))


def test_a_full_disk_leaves_nothing(source, tmp_path):
    for write in (lambda out: export_adapter(source, out), lambda out: export_merged(source, out, torch.float32)):
        with small_disk(3000), pytest.raises((OSError, UserError)):
            write(tmp_path / "x")
        assert not list(tmp_path.iterdir())


def test_a_base_in_the_hubs_cache_has_its_name_there(tmp_path):
    cached = tmp_path / "hub" / "models--Qwen--Qwen2.5-7B-Instruct" / "snapshots" / "a09a"
    os.makedirs(cached)
    assert hub_name(cached) == "Qwen/Qwen2.5-7B-Instruct" and hub_name(tmp_path) == str(tmp_path)
