"""A step on a tiny random model: it moves one role's adapter alone; its metrics; the sampler shares its model."""

import asyncio
import copy
import dataclasses

import pytest
import torch

from aslfast.config.roles import ROLES
from aslfast.config.schema import LossConfig
from aslfast.models import lora
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import SampleRequest
from tests.support.learner.reference import (
    at_loss_tokens,
    learner_of,
    moved,
    naive_logprobs,
    off_by,
    real_trajectories,
    state,
)
from tests.support.tiny_models import stir, tiny_model
from tests.support.token_streams import grouped, ragged, trajectory


@pytest.mark.parametrize("role", ROLES)
def test_only_the_active_adapter_moves(model, role):
    before, learner = state(model), learner_of(model)
    learner.step(role, *ragged())
    names = moved(model, before)
    assert names == {name for name in before if f".{role}." in name}
    assert len(names) == 2 * 7 * 2  # A and B of seven layers, in two blocks
    assert learner.version == {r: int(r == role) for r in ROLES}
    assert all(p.grad is None for p in model.parameters())


def test_roles_do_not_share_an_optimizer(model):
    """A step of one role leaves another's weights and Adam moments as they are."""
    learner = learner_of(model)
    learner.step("policy", *ragged())
    before = state(model)
    learner.step("grm", *ragged())
    assert moved(model, before) == {name for name in before if ".grm." in name}
    assert not learner.optimizers["generator"].state


def test_a_step_raises_what_was_good_and_lowers_what_was_bad(model):
    good, bad = trajectory(30, 1), trajectory(30, 2)
    model.set_adapter("policy")
    on_policy = [
        dataclasses.replace(t, logprobs=at_loss_tokens(t, naive_logprobs(model, [t]).tolist())) for t in (good, bad)
    ]
    before = [float(naive_logprobs(model, [t]).sum()) for t in on_policy]
    learner_of(model, learning_rate=1e-3).step("policy", on_policy, [1.0, -1.0])
    after = [float(naive_logprobs(model, [t]).sum()) for t in on_policy]
    assert after[0] > before[0] + 0.01 and after[1] < before[1] - 0.01


def test_on_policy_stats(tokenizer, model, index):
    """The sampler's log-probs are the learner's, on real rollouts; then every ratio is 1 and nothing is clipped."""
    trajectories = real_trajectories(tokenizer, model, index)
    stats = learner_of(model).step("policy", trajectories, [1.0, -1.0, 0.5, -0.5])
    assert 0 < stats.mismatch < 1e-4
    assert stats.clip_fraction == 0.0 and stats.ratio_max == pytest.approx(1.0, abs=1e-3)
    assert stats.loss_tokens == sum(t.n_sampled for t in trajectories)
    weighted = sum(a * t.n_sampled for a, t in zip([1.0, -1.0, 0.5, -0.5], trajectories, strict=True))
    assert stats.loss == pytest.approx(-weighted / stats.loss_tokens, abs=1e-4)  # ratios of 1: minus the mean advantage


def test_kl_of_a_fresh_adapter_is_zero_and_then_grows(tokenizer, index):
    model = lora.add_adapters(tiny_model(tokenizer), 4, 8.0, seed=0)
    learner, trajectories = learner_of(model), real_trajectories(tokenizer, model, index)
    learner.config = dataclasses.replace(learner.config, kl_every=1)
    assert learner.step("policy", trajectories, [1.0, -1.0, 1.0, -1.0]).kl == 0.0
    second = learner.step("policy", trajectories, [1.0, -1.0, 1.0, -1.0])
    assert second.kl > 1e-6
    base = naive_logprobs(copy.deepcopy(model).unload().double(), trajectories)
    model.set_adapter("policy")
    gap = base - naive_logprobs(model, trajectories)
    k3 = float((gap.exp() - gap - 1).mean())
    assert learner.step("policy", trajectories, [1.0, -1.0, 1.0, -1.0]).kl == pytest.approx(k3, rel=1e-3)


def test_kl_term_pulls_back_to_the_base(model):
    """With no advantage at all the loss is the KL, and a step lowers it."""
    trajectories, _ = ragged()
    learner = learner_of(model, LossConfig(kl_coef=1.0), learning_rate=1e-3)
    first = learner.step("policy", trajectories, [0.0] * len(trajectories))
    assert first.loss == pytest.approx(first.kl, rel=1e-4)
    assert learner.step("policy", trajectories, [0.0] * len(trajectories)).kl < first.kl


def test_gradient_clip(model):
    """The norm reported is the one before the clip; what the optimizer sees is at most grad_clip."""
    seen, trajectories = [], ragged()
    for clip in (1e6, 1e-3):
        learner = learner_of(copy.deepcopy(model), grad_clip=clip)
        parameters = lora.parameters_of(learner.model, "policy")
        learner.optimizers["policy"].register_step_pre_hook(
            lambda *_, p=parameters: seen.append(float(torch.cat([w.grad.flatten() for w in p]).norm()))
        )
        norm = learner.step("policy", *trajectories).grad_norm
        assert seen[-1] == pytest.approx(min(norm, clip), rel=1e-3)
        assert norm > 1e-2
    assert seen[0] > seen[1]


def test_base_logprobs_are_computed_only_where_they_are_used(model):
    """Without the forward pass the metric is None, never a stale number."""
    passes, every = [], learner_of(model, kl_every=3)
    model.get_base_model().get_decoder().register_forward_hook(lambda *_: passes.append(model.active_adapters))
    kls = [every.step("policy", *ragged()).kl for _ in range(6)]
    assert [kl is not None for kl in kls] == [False, False, True, False, False, True]
    assert len(passes) == 6 + 2
    never = learner_of(model, kl_every=0)
    assert [never.step("policy", *ragged()).kl for _ in range(5)] == [None] * 5
    always = learner_of(model, LossConfig(kl_coef=0.1), kl_every=0)
    assert always.step("policy", *ragged()).kl > 0


def test_mismatch_is_measured(model):
    trajectories, advantage = grouped()
    trajectories, shift = off_by(trajectories, model, 0.3)
    stats = learner_of(model).step("policy", trajectories, advantage)
    assert stats.mismatch == pytest.approx(float(shift.abs().mean()), rel=1e-4)
    assert stats.mismatch_max == pytest.approx(float(shift.abs().max()), rel=1e-4)
    assert stats.mismatch_kl == pytest.approx(float(((-shift).exp() - 1 + shift).mean()), rel=1e-3)


def greedy(sampler, tokenizer, adapter_name):
    ids = tuple(tokenizer("tell me", add_special_tokens=False)["input_ids"])
    request = SampleRequest(ids, f"s-{adapter_name}", adapter_name, 12, 0.0)
    return asyncio.run(sampler.generate(request))


def test_the_sampler_uses_the_new_weights(tokenizer, model):
    sampler, learner = (
        LocalSampler(model, tokenizer, max_running_requests=4, max_context=256),
        learner_of(model, learning_rate=0.1),
    )
    old = {role: greedy(sampler, tokenizer, role) for role in ("policy", "grm")}
    learner.step("policy", *ragged())
    sampler.flush()
    fresh = LocalSampler(model, tokenizer, max_running_requests=4, max_context=256)
    assert greedy(sampler, tokenizer, "policy").logprobs == greedy(fresh, tokenizer, "policy").logprobs
    assert greedy(sampler, tokenizer, "policy").logprobs != old["policy"].logprobs
    assert greedy(sampler, tokenizer, "grm") == old["grm"]


def test_sampler_and_learner_leave_the_shared_model_in_order(tokenizer, model, index):
    """Check mode, active adapter and trainable weights after each use of the model."""
    sampler, learner = LocalSampler(model, tokenizer, max_running_requests=4, max_context=512), learner_of(model)
    model.set_adapter("grm")
    trajectories = real_trajectories(tokenizer, model, index, "policy", sampler=sampler)
    assert model.active_adapter == "grm" and not model.training
    assert _trainable(model) == {"grm"}
    learner.step("policy", trajectories, [1.0, -1.0, 1.0, -1.0])
    assert model.active_adapter == "policy" and not any(module.training for module in model.modules())
    assert _trainable(model) == {"policy"}
    again = real_trajectories(tokenizer, model, index, "generator", sampler=sampler)
    assert model.active_adapter == "policy" and _trainable(model) == {"policy"}
    assert learner.step("generator", again, [1.0, -1.0, 1.0, -1.0]).mismatch < 1e-4
    assert _trainable(model) == {"generator"}


def _trainable(model):
    """Return the adapters with trainable weights; "base" for any other weight."""
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    return {next((role for role in ROLES if f".{role}." in name), "base") for name in names}


def test_same_seed_same_steps(tokenizer):
    runs = []
    for _ in range(2):
        model = lora.add_adapters(tiny_model(tokenizer), 4, 8.0, seed=3)
        stir(model)
        learner = learner_of(model)
        runs.append(([learner.step("policy", *ragged()) for _ in range(2)], state(model)))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(weight, runs[1][1][name]) for name, weight in runs[0][1].items())
