"""A learner's weights and optimizer state: restored bit for bit, written whole or not at all."""

import pytest
import torch

from aslfast.config import load_recipe
from aslfast.config.roles import ROLES
from aslfast.learner.learner import Learner
from aslfast.learner.optimizer_state import load_learner, save_learner
from aslfast.models import lora
from tests.support.faults.small_disk import small_disk
from tests.support.tiny_models import stir, tiny_model
from tests.support.token_streams import trajectory


def a_learner(tokenizer, seed):
    config = load_recipe("tiny")
    model = lora.add_adapters(tiny_model(tokenizer), 4, 8.0, seed=seed)
    stir(model, seed=seed + 1)
    return Learner(model, config.learner, config.loss, 0.7, ROLES)


def a_step(learner, role, seed):
    batch = [trajectory(30, seed + i, n_vocab=learner.model.config.vocab_size) for i in range(4)]
    return learner.step(role, batch, [1.0, -1.0, 0.5, -0.5])


def weights(learner):
    return {name: weight.detach().clone() for name, weight in learner.model.named_parameters() if ".lora_" in name}


def test_a_restored_learner_continues_bit_for_bit(tokenizer, tmp_path):
    """Saved after two steps and restored into a learner with other weights: the third step is the same for both."""
    first, other = a_learner(tokenizer, 0), a_learner(tokenizer, 5)
    for seed in (0, 1):
        a_step(first, "policy", seed)
    for role in ROLES:
        load_learner(other, role, save_learner(first, role, tmp_path / "steps" / f"{role}.safetensors"))
    assert other.version == first.version == {"generator": 0, "grm": 0, "policy": 2}
    for role, seed in (("policy", 2), ("grm", 3)):
        assert a_step(first, role, seed) == a_step(other, role, seed)
    mine, theirs = weights(first), weights(other)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_full_disk_leaves_no_partial_file(tokenizer, tmp_path):
    learner = a_learner(tokenizer, 0)
    with small_disk(2000), pytest.raises(OSError):
        save_learner(learner, "policy", tmp_path / "steps" / "policy.safetensors")
    assert not any((tmp_path / "steps").iterdir())
