"""One copy of the base for engine and trainer, with the real engine on a CPU: the same values, one memory, both ways.

One engine serves a random Qwen2 of 246 MB for most tests; Qwen3 and Llama have a small one each.
"""

import gc
import os
import shutil
import signal
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from aslfast.config.roles import ROLES
from aslfast.config.schema import LearnerConfig, LoraConfig, LossConfig, ModelConfig, RunConfig, SamplerConfig
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.base_model import load_base, load_without_weights
from aslfast.models.base_source import reason_not_shared
from aslfast.models.base_weights import BaseWeights, CannotShare
from aslfast.models.weight_files import WeightFiles
from aslfast.sampler.sglang.engine_client import EngineDied
from aslfast.sampler.sglang.shared_weights import engine_views, views_of
from aslfast.sampler.sglang.sync_check import logprobs
from aslfast.trainer.build import build_sampler, load_base_model
from tests.support.tiny_models import stir, tiny_model
from tests.support.token_streams import ragged

TOLERANCE = 1e-4
IDS = tuple(range(7, 250, 6))
SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "tie_word_embeddings": False,
}  # fmt: skip


def write_model(model_class, folder, tokenizer, shard="5GB", **options):
    """A random model on the disk; its vocabulary is no multiple of 64, so that the engine pads it."""
    torch.manual_seed(0)
    model = model_class(
        model_class.config_class(
            vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id, **options
        )
    )
    for name, weight in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # zeros and ones would hide a mix-up
            weight.data += torch.randn_like(weight) * 0.1
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass
class Opened:
    """A trainer's model and the engine that it shares the base with, as `train` makes them."""

    config: RunConfig
    model: Any
    sampler: Any
    notices: list[str] = field(default_factory=list)

    def score(self, role=None):
        return torch.tensor(self.sampler.score(IDS, role))

    def logprobs(self, role=None):
        return torch.tensor(logprobs(self.model, IDS, role))


def opened(folder, **sampler):
    settings = SamplerConfig(kind="sglang", max_running_requests=4, max_context=256, temperature=0.7, **sampler)
    config = RunConfig(
        threads=1, model=ModelConfig(path=str(folder), device="cpu"), sampler=settings, lora=LoraConfig(4, 8.0)
    )
    model, tokenizer = load_base_model(config)
    model = lora.add_adapters(model, config.lora.rank, config.lora.alpha, config.seed)
    stir(model)
    notices: list[str] = []
    return Opened(config, model, build_sampler(config, model, tokenizer, notify=notices.append), notices)


@pytest.fixture(scope="module")
def big(tokenizer, tmp_path_factory):
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 8}
    folder = tmp_path_factory.mktemp("qwen2")
    return write_model(
        transformers.Qwen2ForCausalLM, folder, tokenizer, "100MB", **{**SMALL, **sizes, "initializer_range": 0.03}
    )


@pytest.fixture(scope="module")
def shared(big):
    it = opened(big)
    with closing(it.sampler):
        it.sampler.start()
        yield it


def n_bytes(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def pss(*pids):
    """Memory of processes [bytes]; each page counts once, whoever maps it."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def engine_pids(sampler):
    host = psutil.Process(sampler.running_engine().pids[0])
    return [host.pid, *(child.pid for child in host.children(recursive=True))]


def equals_files(model, folder):
    files = WeightFiles(folder)
    base = model.get_base_model()
    weights = {name.replace(".base_layer", ""): w for name, w in base.named_parameters() if ".lora_" not in name}
    return all(torch.equal(weight, files.read(name)) for name, weight in weights.items())


def test_a_skeleton_has_no_weights_but_all_else(big):
    before = pss(os.getpid())
    skeleton, found = load_without_weights(big, torch.float32, "cpu")
    assert pss(os.getpid()) - before < n_bytes(big) / 10
    assert not found["missing_keys"] and all(weight.isnan().all() for weight in skeleton.parameters())
    loaded, _ = load_base(big)
    assert skeleton.generation_config == loaded.generation_config
    buffers = dict(skeleton.named_buffers())
    assert buffers and all(torch.equal(buffers[name], buffer) for name, buffer in loaded.named_buffers())


def test_the_trainers_weights_are_the_files(shared, big):
    size = n_bytes(big) / 1e9
    assert shared.notices[0] == f"base: shared with the engine, {size:.3g} GB"
    assert equals_files(shared.model, big)
    for role in (None, *ROLES):
        assert (shared.score(role) - shared.logprobs(role)).abs().max() < TOLERANCE
    assert (shared.logprobs("policy") - shared.logprobs(None)).abs().max() > 100 * TOLERANCE


def step_on(model):
    """One optimizer step of the policy; its adapter's weights afterwards."""
    learner = Learner(model, LearnerConfig(learning_rate=1e-3), LossConfig(), 0.7, ROLES)
    learner.step("policy", *ragged())
    return [weight.detach().clone() for weight in lora.parameters_of(model, "policy")]


def test_a_step_equals_one_over_a_loaded_base(shared, big):
    policy = lora.parameters_of(shared.model, "policy")
    before = [weight.detach().clone() for weight in policy]
    loaded = lora.add_adapters(load_base(big)[0], 4, 8.0, 0)
    stir(loaded)
    wanted, found = step_on(loaded), step_on(shared.model)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, found, strict=True))
    assert equals_files(shared.model, big)  # the base has not moved
    shared.sampler.flush()
    assert (shared.score("policy") - shared.logprobs("policy")).abs().max() < TOLERANCE


def test_the_engine_sees_an_edit_of_the_trainers(shared):
    """No call between the two. (`score` reads no keys and values of before the edit, which would be stale.)"""
    layer = shared.model.get_base_model().model.layers[2].mlp.down_proj.base_layer
    engine_before, trainer_before, row = shared.score(), shared.logprobs(), layer.weight[5].clone()
    layer.weight[5] *= 30
    try:
        assert (shared.logprobs() - trainer_before).abs().max() > 100 * TOLERANCE
        assert (shared.score() - shared.logprobs()).abs().max() < TOLERANCE
    finally:
        layer.weight[5] = row
    assert torch.equal(shared.score(), engine_before)


def test_one_copy_in_memory_and_two_where_the_values_differ(shared, big, tmp_path):
    """The engine's weights are not those of another folder: a trainer of that folder loads its own, and says so."""
    other = Path(shutil.copytree(big, tmp_path / "other"))
    file = sorted(other.glob("*.safetensors"))[0]
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("v_proj.weight"))
    weights[name][-1] += 1
    save_file(weights, file, metadata={"format": "pt"})
    pids = (os.getpid(), *engine_pids(shared.sampler))
    shared.logprobs()  # every page is mapped by both
    gc.collect()
    one_copy, notices = pss(*pids), []
    skeleton, _ = load_without_weights(other, torch.float32, "cpu")
    views = partial(engine_views, shared.sampler.running_engine())
    BaseWeights(skeleton, other, notices.append).share_or_load(views)
    gc.collect()
    two_copies = pss(*pids)
    assert notices == [f"base: two copies ({name}: the engine's values are not the file's)"]
    assert torch.equal(skeleton.state_dict()[name], weights[name])
    assert 0.9 < (two_copies - one_copy) / n_bytes(big) < 1.1
    assert equals_files(shared.model, big)  # as they were


def test_after_a_kill_the_base_is_bound_again(shared, big):
    before = {role: shared.logprobs(role) for role in (None, "policy")}
    shared.notices.clear()
    engine = shared.sampler.running_engine()
    os.kill(engine_pids(shared.sampler)[-1], signal.SIGKILL)
    with pytest.raises(EngineDied):
        while True:
            engine.call("stats")
    assert all(torch.equal(shared.logprobs(role), before[role]) for role in before)  # the memory outlives the engine
    shared.sampler.start()
    assert [notice.split(" (")[0] for notice in shared.notices] == [
        "the SGLang engine died", f"base: shared with the engine, {n_bytes(big) / 1e9:.3g} GB",
    ]  # fmt: skip
    assert equals_files(shared.model, big)
    step_on(shared.model)
    shared.sampler.flush()
    for role in (None, "policy"):
        assert (shared.score(role) - shared.logprobs(role)).abs().max() < TOLERANCE
    assert torch.equal(shared.logprobs(), before[None])


@pytest.mark.parametrize("architecture", ["Qwen3", "Llama"])
def test_other_architectures(tokenizer, tmp_path, architecture):
    extra = {"head_dim": 32} if architecture == "Qwen3" else {"attention_bias": True}
    write_model(getattr(transformers, f"{architecture}ForCausalLM"), tmp_path, tokenizer, **SMALL, **extra)
    it = opened(tmp_path)
    with closing(it.sampler):
        it.sampler.start()
        assert it.notices[0].startswith("base: shared with the engine")
        assert equals_files(it.model, tmp_path)
        for role in (None, *ROLES):
            assert (it.score(role) - it.logprobs(role)).abs().max() < TOLERANCE


def test_bases_that_are_not_shared(tokenizer, tmp_path):
    """Each for its reason; the run says which, and the trainer's weights are loaded."""
    assert reason_not_shared(tmp_path, True) == "its config.json cannot be read"
    tiny_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert reason_not_shared(tmp_path, True) is None
    it = opened(tmp_path, share_base=False)
    it.sampler.close()
    assert it.notices == ["base: two copies (sampler.share_base is false)"] and not it.sampler.engine_args.share_base
    assert equals_files(it.model, tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"qwen2"', '"gemma3"'))
    assert reason_not_shared(tmp_path, True) == "its model_type gemma3 is none of llama, qwen2, qwen3"


def test_what_has_no_place_is_named():
    shapes = {
        f"layers.0.{name}.weight": torch.Size(shape)
        for name, shape in {"q_proj": (4, 3), "k_proj": (2, 3), "v_proj": (2, 3)}.items()
    }
    shapes |= {"embed_tokens.weight": torch.Size((5, 3)), "norm.weight": torch.Size((3,))}
    engine = {
        "layers.0.qkv_proj.weight": torch.arange(24.0).view(8, 3),
        "embed_tokens.weight": torch.arange(192.0).view(64, 3), "norm.weight": torch.ones(3),
    }  # fmt: skip
    views = views_of(shapes, engine)
    assert views["layers.0.k_proj.weight"].flatten().tolist() == list(range(12, 18))
    assert views["layers.0.v_proj.weight"].flatten().tolist() == list(range(18, 24))
    assert views["embed_tokens.weight"].flatten().tolist() == list(range(15))
    broken = {
        "norm.weight: the engine has no norm.weight": {**engine, "norm.weight": None},
        "norm.weight: its shape is (3,), the engine's norm.weight has (4,)": {**engine, "norm.weight": torch.ones(4)},
        "layers.0.v_proj.weight: its shape is (2, 3), the engine's layers.0.qkv_proj.weight has (7, 3)": {
            **engine, "layers.0.qkv_proj.weight": torch.ones(7, 3),
        },
    }  # fmt: skip
    for reason, held in broken.items():
        with pytest.raises(CannotShare) as refused:
            views_of(shapes, {name: weight for name, weight in held.items() if weight is not None})
        assert str(refused.value) == reason
