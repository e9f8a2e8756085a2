"""Adapters on disk: PEFT loads what we write, we load it back, and wrong adapters get one clear line."""

import shutil

import peft
import pytest
import torch

from aslfast.config.roles import ROLES
from aslfast.errors import UserError
from aslfast.models import lora
from tests.support.faults.small_disk import small_disk
from tests.support.tiny_models import stir, tiny_model

IDS = torch.tensor([[1, 5, 9, 200, 17, 3]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_peft_loads_what_we_write(tokenizer, model, tmp_path):
    for version, role in enumerate(ROLES, 1):
        folder = lora.save_adapter(model, role, tmp_path / role, version)
        assert folder == tmp_path / role / f"v{version:04d}"
        loaded = peft.PeftModel.from_pretrained(tiny_model(tokenizer), folder).eval()
        model.set_adapter(role)
        assert torch.equal(logits(loaded), logits(model))
        assert sorted(path.name for path in folder.iterdir() if path.name != "README.md") == [
            "adapter_config.json", "adapter_model.safetensors",
        ]  # fmt: skip
    assert not torch.equal(logits(model), logits(tiny_model(tokenizer)))


def test_load_adapter_restores(tokenizer, model, tmp_path):
    folder = lora.save_adapter(model, "grm", tmp_path, 3)
    fresh = lora.add_adapters(tiny_model(tokenizer), 4, 8.0, seed=9)
    others = {name: weight.clone() for name, weight in fresh.state_dict().items() if ".policy." not in name}
    lora.load_adapter(fresh, "policy", folder)
    fresh.set_adapter("policy")
    model.set_adapter("grm")
    assert torch.equal(logits(fresh), logits(model))
    assert all(torch.equal(fresh.state_dict()[name], weight) for name, weight in others.items())


def test_saving_leaves_the_model_as_it_was(model, tmp_path):
    model.set_adapter("policy")
    lora.save_adapter(model, "grm", tmp_path, 1)
    assert model.active_adapter == "policy" and not model.peft_config["grm"].inference_mode
    assert {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad} == {"policy"}


def test_a_version_is_written_once(model, tmp_path):
    folder = lora.save_adapter(model, "policy", tmp_path, 5)
    first = (folder / "adapter_model.safetensors").read_bytes()
    assert lora.save_adapter(model, "policy", tmp_path, 5) == folder
    assert (folder / "adapter_model.safetensors").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["v0005"]


def test_a_full_disk_leaves_nothing(model, tmp_path):
    with small_disk(1000), pytest.raises(OSError):
        lora.save_adapter(model, "policy", tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_latest(tmp_path):
    assert lora.latest(tmp_path) is None and lora.latest(tmp_path / "none") is None
    for name in ("v0002", "v0010", "v9", "v0011.partial", "vnext", ".v0012.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / "v0099").write_text("a file")
    assert lora.latest(tmp_path) == tmp_path / "v0010"


def test_wrong_adapters_are_refused(tokenizer, model, tmp_path):
    folder = lora.save_adapter(model, "policy", tmp_path, 1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for rank, alpha in ((8, 8.0), (4, 16.0)):
        other = lora.add_adapters(tiny_model(tokenizer), rank, alpha, seed=0)
        with pytest.raises(UserError, match=r"v0001: .*lora.rank=4 and lora.alpha=8.0"):
            lora.load_adapter(other, "policy", folder)
    for name, broken in (("adapter_config.json", b"{"), ("adapter_model.safetensors", b"\0" * 20)):
        copied = tmp_path / f"broken-{name}"
        shutil.copytree(folder, copied)
        (copied / name).write_bytes(broken)
        with pytest.raises(UserError, match="no readable adapter"):
            lora.load_adapter(model, "policy", copied)
    with pytest.raises(UserError, match="no readable adapter"):
        lora.load_adapter(model, "policy", tmp_path / "v0002")
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())


def test_an_adapter_of_another_base_is_refused(tokenizer, model, tmp_path):
    folder = lora.save_adapter(model, "policy", tmp_path, 1)
    bigger = tiny_model(tokenizer)
    bigger.model.layers = bigger.model.layers[:1]
    with pytest.raises(UserError, match="another base"):
        lora.load_adapter(lora.add_adapters(bigger, 4, 8.0, seed=0), "policy", folder)


def test_adapters_start_as_the_base(tokenizer):
    base = logits(tiny_model(tokenizer))
    model = lora.add_adapters(tiny_model(tokenizer), 4, 8.0, seed=0)
    for role in ROLES:
        model.set_adapter(role)
        assert torch.equal(logits(model), base)
    stir(model)
    assert not torch.equal(logits(model), base)
    assert len({p for role in ROLES for p in lora.parameters_of(model, role)}) == 3 * 2 * 7 * 2


def test_a_model_without_the_usual_layers_is_refused():
    with pytest.raises(UserError, match="Sequential: none of the layers"):
        lora.add_adapters(torch.nn.Sequential(torch.nn.Linear(2, 2)), 4, 8.0, seed=0)
