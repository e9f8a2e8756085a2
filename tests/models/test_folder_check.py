"""Model folders that transformers would ask about, load in part, or take for something else: one line each."""

import json
import shutil

import pytest
import transformers
from safetensors.torch import load_file, save_file

from aslfast.errors import UserError
from aslfast.models.base_model import load_base
from aslfast.models.folder_check import LFS_POINTER
from aslfast.trainer.preflight.architectures import read_shape
from tests.support.tiny_models import tiny_model

POINTER = LFS_POINTER + b"v1\noid sha256:4d7a\nsize 8888\n"


@pytest.fixture
def folder(tokenizer, tmp_path):
    tiny_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def change(file, **settings):
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.is_file() else {}), **settings}))


def refused(folder, match):
    with pytest.raises(UserError, match=match) as raised:
        load_base(folder)
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value) and "; " in str(raised.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_pointers_of_git_lfs(folder, name):
    (folder / name).write_bytes(POINTER)
    refused(folder, rf"{name}: a pointer of Git LFS, not the file itself; run git lfs pull")


def test_code_of_its_own_is_never_asked_about(folder, capfd):
    """transformers would ask on stdout whether to run it."""
    (folder / "configuration_own.py").write_text("raise SystemExit('ran')")
    change(folder / "config.json", model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    refused(folder, r"model_type own needs Python code that comes with it \(auto_map\), which is never run; use")
    with pytest.raises(UserError, match="needs Python code"):
        read_shape(str(folder), 4)
    assert capfd.readouterr().out == ""


def test_a_known_architecture_is_loaded_by_transformers_own_code(folder):
    change(folder / "config.json", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    assert isinstance(load_base(folder)[0], transformers.Qwen2ForCausalLM)


def test_a_tokenizer_with_code_of_its_own(folder, capfd):
    (folder / "tokenizer.json").unlink()
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_own.Own", None]})
    refused(folder, "its tokenizer needs Python code")
    assert capfd.readouterr().out == ""


def test_an_adapter_beside_the_model(folder):
    change(folder / "adapter_config.json", peft_type="LORA", r=4, base_model_name_or_path="elsewhere")
    refused(folder, r"holds an adapter \(adapter_config.json\) beside the model.*roles.<role>.init_adapter")


def test_weights_without_a_place(folder):
    """A third layer that config.json does not count; a head of another task."""
    weights = load_file(folder / "model.safetensors")
    more = {"model.layers.2.mlp.up_proj.weight": weights["model.layers.1.mlp.up_proj.weight"].clone()}
    save_file(weights | more, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"hold weights that the model of its config.json has no place for \(model.layers.2.mlp.up_proj")
    head = {"score.weight": weights["model.norm.weight"][None].clone()}
    save_file(weights | head, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"no place for \(score.weight\)")


@pytest.mark.parametrize("head", [transformers.BertForMaskedLM, transformers.BertLMHeadModel])
def test_a_masked_language_model(folder, tokenizer, head):
    shutil.rmtree(folder)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    head(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    refused(folder, rf"a masked language model \({head.__name__}\), which sees the tokens after those it predicts")
