"""The base's weights without an engine: a copy of the files, views of other memory, placeholders until then."""

import pytest
import torch
from safetensors.torch import load_file

from aslfast.models import lora
from aslfast.models.base_model import load_base
from aslfast.models.base_weights import BaseWeights, CannotShare
from tests.support.tiny_models import stir, tiny_model


@pytest.fixture
def folder(tokenizer, tmp_path):
    tiny_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def skeleton(folder):
    """A model of placeholders with adapters, as an engine's trainer opens it."""
    model, _ = load_base(folder, source="shared")
    model = lora.add_adapters(model, 4, 8.0, seed=0)
    stir(model)
    return model


def base_of(model):
    weights = model.get_base_model().named_parameters()
    return {name.replace(".base_layer", ""): weight for name, weight in weights if ".lora_" not in name}


def assert_equals(model, weights):
    base = base_of(model)
    assert base.keys() == weights.keys() and not any(weight.requires_grad for weight in base.values())
    assert all(torch.equal(base[name], weight) for name, weight in weights.items())


def test_a_copy_is_the_files_values_and_release_drops_it(folder, skeleton):
    files, weights = load_file(folder / "model.safetensors"), BaseWeights(skeleton, folder)
    assert all(weight.isnan().all() for weight in base_of(skeleton).values())
    weights.load()
    assert_equals(skeleton, files)
    adapters = {name: p.clone() for name, p in skeleton.named_parameters() if ".lora_" in name}
    weights.release()
    for name, weight in base_of(skeleton).items():
        assert weight.isnan().all() and weight.shape == files[name].shape and weight.untyped_storage().nbytes() == 4
    assert all(torch.equal(p, adapters[name]) for name, p in skeleton.named_parameters() if name in adapters)


def test_views_are_the_engines_memory(folder, skeleton):
    """An edit of the one is an edit of the other; tied weights have one view."""
    engine, lines = load_file(folder / "model.safetensors"), []
    BaseWeights(skeleton, folder, lines.append).share_or_load(lambda shapes: {name: engine[name] for name in shapes})
    assert_equals(skeleton, engine)
    assert lines == [f"base: shared with the engine, {sum(w.nbytes for w in engine.values()) / 1e9:.3g} GB"]
    engine["model.embed_tokens.weight"][5] += 1
    assert_equals(skeleton, engine)
    head = skeleton.get_base_model().lm_head.weight
    assert head.data_ptr() == engine["model.embed_tokens.weight"].data_ptr()


def cannot(shapes):
    raise CannotShare("it has none")


def test_where_it_cannot_be_shared_a_copy_is_loaded(folder, skeleton):
    """For the engine's reason, or because what it has is not what the files hold."""
    files, lines = load_file(folder / "model.safetensors"), []
    weights, name = BaseWeights(skeleton, folder, lines.append), "model.layers.1.mlp.up_proj.weight"
    off = {**files, name: files[name].clone()}
    off[name][-1] += 1
    other_dtype = {**files, name: files[name].double()}
    for engine in (cannot, lambda shapes: off, lambda shapes: other_dtype):
        weights.release()
        weights.share_or_load(engine)
        assert_equals(skeleton, files)
    mixed_up = f"base: two copies ({name}: the engine's values are not the file's)"
    assert lines == ["base: two copies (it has none)", mixed_up, mixed_up]
