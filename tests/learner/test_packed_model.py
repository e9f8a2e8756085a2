"""The packed forward pass: log-probs against a naive float64 softmax, and what the backward pass keeps in memory.

Tolerance of log-probs: torch's own float32 error on the same numbers is measured in the test; ours may be twice that
plus 64 roundings at the size of the log-probs.
"""

import copy

import pytest
import torch

from aslfast.learner.batch import make_batch
from aslfast.models import lora
from tests.support.learner.reference import EPS, learner_of, moved, naive_logprobs, state
from tests.support.tiny_models import stir, tiny_model
from tests.support.token_streams import grouped


@pytest.mark.parametrize("share", [True, False])
def test_logprobs_equal_a_naive_softmax(model, share):
    trajectories, advantage = grouped()
    model.set_adapter("grm")
    exact = naive_logprobs(copy.deepcopy(model).double(), trajectories)
    own = (naive_logprobs(model, trajectories) - exact).abs().max()
    made = make_batch(trajectories, advantage, share)
    assert torch.equal(made.sequence_L, made.sequence_L.sort().values)  # in the order of the naive ones
    ours = learner_of(model).logprobs(made).detach().double()
    assert (ours - exact).abs().max() <= 2 * own + 64 * EPS * exact.abs().max()
    model.set_adapter("policy")
    assert (naive_logprobs(model, trajectories) - exact).abs().max() > 1e-2  # another adapter would have been noticed


def saved_bytes(run):
    """Return the bytes that the backward pass of `run` keeps, each storage once, without the weights."""
    kept = {}

    def keep(x):
        if not isinstance(x, torch.nn.Parameter):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = run()
    assert out.requires_grad
    return sum(kept.values())


def test_activation_checkpointing_keeps_less(model):
    model.set_adapter("policy")
    made, sizes = make_batch(*grouped()), {}
    for kind in ("none", "selective", "layers"):
        learner = learner_of(model, activation_checkpointing=kind)
        with learner.packed_model.training_mode():
            sizes[kind] = saved_bytes(
                lambda learner=learner: learner.packed_model.logprobs(made, learner.packed_model.attend(made))
            )
    assert sizes["layers"] < 0.5 * sizes["none"]
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())


@pytest.mark.parametrize("activation_checkpointing", ["none", "layers", "selective"])
def test_a_bfloat16_base_trains_float32_adapters(tokenizer, activation_checkpointing):
    """Weights, gradients and optimizer state stay float32; the error of log-probs is at most twice that of the
    plain forward pass in bfloat16; no layer's input is widened and kept."""
    model = lora.add_adapters(tiny_model(tokenizer).bfloat16(), 4, 8.0, seed=0)
    stir(model)
    wide = copy.deepcopy(model).double()
    trajectories, advantage = grouped()
    learner = learner_of(model, activation_checkpointing=activation_checkpointing)
    learner.model.set_adapter("policy")
    wide.set_adapter("policy")
    exact, own = naive_logprobs(wide, trajectories), naive_logprobs(model, trajectories)
    ours = learner.logprobs(make_batch(trajectories, advantage)).detach().double()
    assert (ours - exact).abs().mean() <= 2 * (own - exact).abs().mean()
    before = state(model)
    assert learner.step("policy", trajectories, advantage).grad_norm > 0
    parameters = lora.parameters_of(model, "policy")
    moments = learner.optimizers["policy"].state
    assert {p.dtype for p in parameters} == {m["exp_avg"].dtype for m in moments.values()} == {torch.float32}
    assert moved(model, before) == {name for name in before if ".policy." in name}
    assert next(iter(model.get_base_model().parameters())).dtype == torch.bfloat16


def test_a_bfloat16_base_keeps_no_wide_inputs(tokenizer):
    """PEFT left to itself widens the input of every adapted layer to float32, once for each, and keeps it."""
    model = lora.add_adapters(tiny_model(tokenizer).bfloat16(), 4, 8.0, seed=0)
    model.set_adapter("policy")
    made, learner = make_batch(*grouped()), learner_of(model)
    with learner.packed_model.training_mode():
        attend = learner.packed_model.attend(made)
        ours = saved_bytes(lambda: learner.packed_model.hidden(made, attend))
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = True
        inputs = {"input_ids": made.input_T[None], "position_ids": made.position_T[None], "attend": attend}
        plain = saved_bytes(
            lambda: learner.packed_model.base.get_decoder()(**inputs, use_cache=False).last_hidden_state
        )
    # two blocks; seven layers read four different inputs: of width 32 for three, one, two of them, and of 48
    widened, as_they_are = 4 * 2 * (3 * 32 + 32 + 2 * 32 + 48), 2 * 2 * (32 + 32 + 32 + 48)
    assert ours <= plain - (widened - as_they_are) * len(made.input_T)
