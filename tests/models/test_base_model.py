"""Model folders: opened without a network or a pickle, and bad ones get one clear line."""

import json

import pytest
import torch

from aslfast.errors import UserError
from aslfast.files.shipped import LAB_BASE
from aslfast.models.base_model import load_base, model_folder
from tests.support.tiny_models import tiny_model

IDS = torch.tensor([[1, 5, 9, 200, 17, 3]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def base_folder(tokenizer, tmp_path):
    folder = tmp_path / "base"
    tiny_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_load_base(tokenizer, base_folder):
    model, loaded = load_base(base_folder)
    assert torch.equal(logits(model), logits(tiny_model(tokenizer))) and not model.training
    text = "<|im_start|>user\nwhat?<|im_end|>"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template


def test_no_pickle_is_read(base_folder):
    """A folder whose weights are a pickle alone is refused, before the pickle runs."""
    ran = base_folder / "ran"

    class Trap:
        def __reduce__(self):
            return ran.write_text, ("pickled",)

    (base_folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Trap()}, base_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_base(base_folder)
    assert not ran.exists()


def test_bad_model_folders_get_one_line(base_folder, tmp_path):
    def refused(match):
        with pytest.raises(UserError, match=match) as raised:
            load_base(base_folder)
        assert "\n" not in str(raised.value) and str(base_folder) in str(raised.value)

    with pytest.raises(UserError, match="is missing"):
        load_base(tmp_path / "none")
    weights = base_folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[: len(kept) // 2])
    refused("cannot be loaded")
    weights.write_bytes(kept)
    config = json.loads((base_folder / "config.json").read_text())
    (base_folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3, "layer_types": None}))
    refused(r"weights are missing \(model.layers.2")
    (base_folder / "config.json").write_text(json.dumps(config))
    (base_folder / "tokenizer.json").write_text("{}")
    refused("cannot be loaded")


def test_lab_names_the_base_that_ships_with_aslfast(tmp_path):
    assert model_folder("lab") == LAB_BASE and (LAB_BASE / "model.safetensors").is_file()
    assert model_folder(str(tmp_path)) == tmp_path


def test_a_gpu_that_is_not_there_is_refused(base_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^model.device is cuda, but torch sees no GPU here; use auto or cpu$"):
        load_base(base_folder, device="cuda")
    assert load_base(base_folder, device="auto")[0].device.type == "cpu"
