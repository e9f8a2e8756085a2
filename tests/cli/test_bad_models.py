"""Models that cannot be trained or sampled right, given to every command that opens one: one line, exit code 2, and
nothing is left behind."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from aslfast.cli.main import app
from aslfast.files.shipped import LAB_BASE
from aslfast.index import BM25Index
from aslfast.models.folder_check import LFS_POINTER
from tests.support.cli import commands
from tests.support.tiny_architectures import tiny_architecture
from tests.support.tiny_models import PASSAGES


def config(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def weights(folder, change):
    file = folder / "model.safetensors"
    found = load_file(file)
    change(found)
    save_file(found, file, metadata={"format": "pt"})


def nan(folder):
    weights(folder, lambda found: found["model.layers.0.mlp.up_proj.weight"].view(-1)[:1].fill_(float("nan")))


def unexpected(folder):
    weights(folder, lambda found: found.update({"score.weight": found["model.norm.weight"].clone()}))


def custom_code(folder):
    config(folder, model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"})


def masked(folder):
    transformers.BertConfig(is_decoder=False, architectures=["BertForMaskedLM"]).save_pretrained(folder)


def pointer(folder):
    (folder / "model.safetensors").write_bytes(LFS_POINTER + b"v1\n")


def adapter(folder):
    (folder / "adapter_config.json").write_text("{}")


def other(kind, **settings):
    def write(folder):
        made = tiny_architecture(kind, vocab_size=1020, max_position_embeddings=1024, **settings)
        made.save_pretrained(folder)

    return write


ROPE = {
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0,
    },
    "original_max_position_embeddings": 32, "sliding_window": None,
}  # fmt: skip
BROKEN = [
    (nan, "the model's logits are not finite in model.dtype float32"),
    (unexpected, "its files hold weights that the model of its config.json has no place for (score.weight)"),
    (custom_code, "model_type own needs Python code that comes with it (auto_map), which is never run"),
    (masked, "a masked language model (BertForMaskedLM)"),
    (pointer, "model.safetensors: a pointer of Git LFS, not the file itself"),
    (adapter, "holds an adapter (adapter_config.json) beside the model"),
    (other("deepseek_v3"), "its keys and values are compressed: MLA"),
    (other("gemma2", sliding_window=1024), "the base model caps its attention scores"),
]
TRAIN_ALONE = [
    (other("mistral", sliding_window=64), "the model attends to 64 tokens (sliding_window); set it to 64 or less"),
    (other("phi3", **ROPE), "the model changes its rotary frequencies beyond 32 tokens (rope_type longrope)"),
    (other("stablelm"), "a custom attention implementation is not supported by the packed learner"),
]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    shutil.copytree(LAB_BASE, made)
    return made


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    BM25Index.build(PASSAGES, place / "idx", threads=1)
    pq.write_table(pa.table({"id": ["q"], "question": ["Where is Aker?"], "answers": [["Oslo"]]}), place / "q.parquet")
    return ["--data", place / "q.parquet", "--index", place / "idx"]


def refused(*args):
    line = commands.refused(*args)
    assert "; " in line  # it suggests what to do
    return line


def train(folder, out):
    settings = ("rounds=0", "data.eval_count=4", f"model.path={folder}")
    return ["train", "--recipe", "tiny", "--out", out, "-q", *(part for one in settings for part in ("--set", one))]


@pytest.mark.parametrize(("breakage", "reason"), BROKEN)
def test_every_command_refuses_it_in_one_line(breakage, reason, folder, questions, tmp_path):
    breakage(folder)
    before = sorted(tmp_path.rglob("*"))
    assert reason in refused(*train(folder, tmp_path / "run"))
    assert reason in refused("eval", folder, *questions, "-q", "--json")
    assert reason in refused("rollout", "--model", folder, *questions, "--out", tmp_path / "t.parquet", "-q")
    assert sorted(tmp_path.rglob("*")) == before
    result = CliRunner().invoke(app, ["doctor", "--sampler", "local", "--model", str(folder), "--json"])
    said = json.loads(result.stdout)
    assert result.exit_code == 1 and said["sampler"] is None
    assert any(reason in line["detail"] for line in said["lines"] if not line["ok"])


@pytest.mark.parametrize(("breakage", "reason"), TRAIN_ALONE)
def test_what_can_be_sampled_but_not_trained(breakage, reason, folder, questions, tmp_path):
    breakage(folder)
    assert reason in refused(*train(folder, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_which_layers_have_adapters_is_said_by_plan_and_run(folder, tmp_path):
    layers = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj of 4 layers"
    result = CliRunner().invoke(app, ["plan", "--model", str(folder), "--gpu", "80GB"])
    assert f"adapters of rank 16 on {layers}\n" in result.stdout
    result = CliRunner().invoke(app, [str(arg) for arg in train(folder, tmp_path / "run") if arg != "-q"])
    assert result.exit_code == 0 and f"adapters on {layers}\n" in result.stderr
