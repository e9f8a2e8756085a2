"""GGUF files become model folders: the same weights, logits and special tokens; what is damaged is told in one line."""

import hashlib
import json
import random
import struct

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from aslfast.errors import UserError
from aslfast.models.base_model import load_base
from aslfast.models.from_gguf.convert import RECORD, convert
from aslfast.models.from_gguf.header import read_header
from aslfast.models.from_gguf.sources import find_source
from aslfast.models.weight_files import WeightFiles
from aslfast.prompts.chat_template import Chat
from tests.support.faults.small_disk import small_disk
from tests.support.gguf_files.tiny_gguf import CHATML, CONTROL, TOKENS, USER_DEFINED, tensors_of, tiny_llama, write_gguf

ROW = torch.arange(5, 200)[None]


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


@pytest.fixture(scope="module")
def tensors(llama):
    return tensors_of(llama)


@pytest.fixture
def converted(tensors, tmp_path):
    """Convert a file with the given changes; the folder."""

    def make(kind="F32", dtype="float32", **changes):
        file = write_gguf(tmp_path / "tiny.gguf", tensors, kind, **changes)
        convert(find_source(str(file)), tmp_path / "out", dtype)
        return tmp_path / "out"

    return make


def refused(file, out):
    """The one line that a file is refused in, with nothing left behind."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(UserError) as caught:
        convert(find_source(str(file)), out, "float32")
    assert sorted(out.parent.iterdir()) == before
    line = str(caught.value)
    assert str(file) in line and "; " in line and len(line) < 900
    return line


def logits(model):
    with torch.no_grad():
        return model(input_ids=ROW).logits


# --- weights ---------------------------------------------------------------------------------------------------


def test_in_float32_weights_and_logits_are_those_written(converted, llama):
    folder = converted()
    model, _ = load_base(folder)
    for name, weight in llama.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert torch.equal(logits(model), logits(llama))
    assert {file.suffix for file in folder.iterdir() if "model" in file.name} == {".safetensors"}


def test_other_dtypes_round_once(converted, llama):
    folder = converted(dtype="bfloat16")
    wanted = llama.model.layers[1].mlp.up_proj.weight.detach().bfloat16()
    assert torch.equal(load_file(folder / "model.safetensors")["model.layers.1.mlp.up_proj.weight"], wanted)
    assert json.loads((folder / RECORD).read_text())["dtype"] == "bfloat16"


def test_quantised_weights_are_what_their_blocks_say(converted, tensors, llama, tmp_path):
    """Q4_1: blocks of 32 numbers d q + m, with d and m in float16, then the low and the high half bytes q."""
    folder = converted("Q4_1")
    name = "blk.1.ffn_up.weight"
    header, shape = read_header(tmp_path / "tiny.gguf", "tiny"), tensors[name].shape
    start = header.data_at + header.tensors[name].offset
    blocks = np.fromfile(tmp_path / "tiny.gguf", np.uint8, tensors[name].size // 32 * 20, offset=start).reshape(-1, 20)
    scale, least = blocks[:, :2].copy().view(np.float16), blocks[:, 2:4].copy().view(np.float16)
    q = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    wanted = q.astype(np.float32) * scale.astype(np.float32) + least.astype(np.float32)
    written = load_file(folder / "model.safetensors")["model.layers.1.mlp.up_proj.weight"].numpy()
    assert np.array_equal(written, wanted.reshape(shape))
    error = np.abs(written - tensors[name]).reshape(-1, 32)
    assert (error <= 0.51 * scale.astype(np.float32) + 1e-3).all() and error.max() > 1e-3
    assert json.loads((folder / RECORD).read_text())["quantisation"] == {"F32": 5, "Q4_1": 15}


def test_the_checksum_is_of_the_weights_alone(converted, tmp_path):
    folder = converted()
    record = json.loads((folder / RECORD).read_text())
    weights = load_file(folder / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} float32 {list(weights[name].shape)}\n".encode() + weights[name].numpy().tobytes())
    assert record["weights_sha256"] == digest.hexdigest()
    assert record["parameters"] == sum(weight.numel() for weight in weights.values())
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "split", max_shard_size="20KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 2
    assert WeightFiles(tmp_path / "split").sha256() == digest.hexdigest()
    weights["model.norm.weight"][7] += 1e-6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert WeightFiles(folder).sha256() != digest.hexdigest()


def test_the_record_says_where_it_comes_from(converted, tmp_path):
    record = json.loads((converted() / RECORD).read_text())
    assert record["source"] == record["gguf"] == "tiny.gguf" and str(tmp_path) not in json.dumps(record)
    assert record["gguf_sha256"] == hashlib.sha256((tmp_path / "tiny.gguf").read_bytes()).hexdigest()
    assert (record["architecture"], record["licence"]) == ("llama", "mit")
    assert (tmp_path / "out" / "LICENSE").read_text() == "mit\n"


# --- special tokens --------------------------------------------------------------------------------------------

ZEPHYR = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + eos_token }}{% endfor %}"
NO_END = "{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}"
REFUSES = "{{ raise_exception('no') }}"


@pytest.mark.parametrize(
    ("template", "eos", "ids"),
    [
        (CHATML, 2, [2]),
        (CHATML, 0, [2, 0]),  # the file names another than its template writes
        (ZEPHYR, 0, [0]),
        (NO_END, 1, [1]),
        (REFUSES, 1, [1]),
        (None, 1, [1]),
        (CHATML, None, [2]),
    ],
)
def test_the_end_of_a_turn_is_an_eos(template, eos, ids, converted):
    folder = converted(chat_template=template, eos_token_id=eos)
    model, tokenizer = load_base(folder)
    said = json.loads((folder / "generation_config.json").read_text())
    assert said["eos_token_id"] == (ids if len(ids) > 1 else ids[0]) == model.config.eos_token_id
    assert (said["bos_token_id"], said["pad_token_id"]) == (1, 3)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, ids[0], 3)
    if template == CHATML:
        assert Chat(tokenizer).ends_turn([ids[0]]) and not Chat(tokenizer).ends_turn([0])


def test_what_a_file_does_not_name_is_not_made_up(converted):
    folder = converted(bos_token_id=None, eos_token_id=None, pad_token_id=None, chat_template=None, license=None)
    _, tokenizer = load_base(folder)
    assert len(tokenizer) == len(TOKENS) and tokenizer.chat_template is None
    assert tokenizer.bos_token is tokenizer.eos_token is tokenizer.pad_token is None
    assert not (folder / "LICENSE").exists()


def test_without_a_pad_token_it_is_the_end_of_a_turn(converted):
    assert load_base(converted(pad_token_id=None, eos_token_id=0))[1].pad_token_id == 2


def test_control_tokens_and_words_of_the_user_are_read_as_one(converted):
    tokenizer = load_base(converted())[1]
    for id_, word in enumerate([*CONTROL, USER_DEFINED]):
        assert tokenizer(f"x{word}y")["input_ids"][1:-1] == [id_]
    assert tokenizer("he , h")["input_ids"] == [TOKENS.index(word) for word in ("he", "\u0120", ",", "\u0120h")]
    assert tokenizer.decode(tokenizer("he , h . caf\u00e9")["input_ids"]) == "he , h . caf\u00e9"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "he"}], add_generation_prompt=True)["input_ids"]
    assert ids[0] == 1 and ids.count(2) == 1 and tokenizer.decode(ids).endswith("he<|im_end|>\n<|im_start|>assistant\n")


# --- what is damaged -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "nonesuch"}, "architecture nonesuch is not supported"),
        ({"block_count": 3}, "weights are missing (model.layers.2."),
        ({"block_count": 10**9}, "block_count is 1000000000, for 20 tensors"),
        ({"block_count": None}, "block_count is None"),
        ({"block_count": 1}, "transformers' model has a place for"),
        ({"eos_token_id": len(TOKENS)}, "beyond its vocabulary"),
        ({"feed_forward_length": 10**9}, "the shapes of its weights are not those of its settings"),
        ({"embedding_length": 0}, "cannot be converted"),
        ({"rope_scaling_type": gguf.RopeScalingType.YARN}, "rope.scaling.type is yarn, which transformers does not"),
        ({"token_list": [*TOKENS, "more"]}, "the shapes of its weights are not those of its settings"),
        ({"token_list": [*CONTROL, "he", *TOKENS[5:]]}, "tokenizer.ggml.tokens holds 1 words twice"),
        ({"token_list": None}, "cannot be converted"),
        ({"tokenizer_model": None, "token_merges": None}, "cannot be converted"),
        ({"token_merges": ["\0 \0"]}, "out of vocabulary"),
    ],
)
def test_settings_that_make_no_model_are_refused(changes, reason, tensors, tmp_path):
    assert reason in refused(write_gguf(tmp_path / "t.gguf", tensors, **changes), tmp_path / "out")


def test_a_tokenizer_with_a_word_that_the_file_lacks_is_refused(tensors, tmp_path):
    """transformers adds <|endoftext|> to every tokenizer of Qwen2: an id without a row of embeddings."""
    biases = {"attn_q.bias": 64, "attn_k.bias": 32, "attn_v.bias": 32}
    zeros = {f"blk.{i}.{name}": np.zeros(n, np.float32) for i in range(2) for name, n in biases.items()}
    file = write_gguf(tmp_path / "t.gguf", tensors | zeros, architecture="qwen2")
    assert "lacks 1 words that a tokenizer of qwen2 has" in refused(file, tmp_path / "out")


def test_weights_that_make_no_model_are_refused(tensors, tmp_path):
    less = {name: weight for name, weight in tensors.items() if name != "blk.0.ffn_up.weight"}
    assert "weights are missing (model.layers.0.mlp.up_proj.weight)" in refused(
        write_gguf(tmp_path / "a.gguf", less), tmp_path / "out"
    )
    more = {**tensors, "rope_freqs.weight": np.ones(8, np.float32)}
    assert "it would be another model" in refused(write_gguf(tmp_path / "b.gguf", more), tmp_path / "out")
    nan = {**tensors, "output_norm.weight": np.full(64, np.nan, np.float32)}
    assert "model.norm.weight has values that are not finite" in refused(
        write_gguf(tmp_path / "c.gguf", nan), tmp_path / "out"
    )


def test_a_cut_or_changed_file_is_refused_or_converted(tensors, tmp_path):
    """Cut anywhere: refused by its header. A few bytes of the header changed: one of both, never another error."""
    whole = write_gguf(tmp_path / "t.gguf", tensors).read_bytes()
    header = read_header(tmp_path / "t.gguf", "t")
    rng, file = random.Random(0), tmp_path / "u.gguf"
    for end in [*range(0, 40), *rng.sample(range(40, len(whole)), 100)]:
        file.write_bytes(whole[:end])
        with pytest.raises(UserError, match="u: not a GGUF model that can be read"):
            read_header(file, "u")
    survived = 0
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.sample(range(header.data_at), 3):
            data[at] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
        file.write_bytes(data)
        try:
            survived += bool(read_header(file, "u").fields)
        except UserError as error:
            assert str(error).startswith("u: ") and len(str(error)) < 400
    assert 0 < survived < 300


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "in the middle of a value"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "in the middle of a value"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**60), "middle of a value"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 9, 1), "the unknown type 9"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IQ", 8, 2**64 - 1), "middle of a value"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "general.architecture is missing"),
        (b"GGUF", "in the middle of a value"),
        (b"\0" * 64, "neither a GGUF file nor a wheel"),
        (b"", "neither a GGUF file nor a wheel"),
        (b"PK\x03\x04" + b"\0" * 99, "a damaged wheel"),
    ],
)
def test_hostile_beginnings_are_refused_at_once(begin, reason, tmp_path):
    (tmp_path / "t.gguf").write_bytes(begin + b"\0" * 32 * (len(begin) > 24))
    assert reason in refused(tmp_path / "t.gguf", tmp_path / "out")


def test_a_full_disk_leaves_nothing(tensors, tmp_path):
    file = write_gguf(tmp_path / "t.gguf", tensors)
    with small_disk(20_000), pytest.raises(OSError):
        convert(find_source(str(file)), tmp_path / "out", "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["t.gguf"]
