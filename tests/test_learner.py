"""The learner on a tiny random model: exact log-probs, one role's adapter moves and nothing else, the sampler agrees.

Tolerance of log-probs: float32 against a naive float64 softmax over the full vocabulary. Torch's own float32 error on
the same numbers is measured in the test; ours may be twice that plus 64 roundings at the size of the log-probs.
"""

import asyncio
import copy
import dataclasses

import pytest
import torch
from conftest import stir, tiny_model
from streams import ragged, trajectory

from aslfast import adapter, roles
from aslfast.batch import make_batch
from aslfast.chat import Chat
from aslfast.core import ROLES
from aslfast.errors import UserError
from aslfast.learner import Learner, LearnerConfig
from aslfast.loss import LossConfig
from aslfast.rollout import Limits, Rollout
from aslfast.sampler import SampleRequest
from aslfast.sampler.local import LocalSampler
from aslfast.tool import SearchTool
from aslfast.tool_pool import ToolPool

TEMPERATURE = 0.7
EPS = torch.finfo(torch.float32).eps


def learner_of(model, loss=LossConfig(), **options):  # noqa: B008  # a frozen value
    return Learner(model, LearnerConfig(**{"learning_rate": 1e-2, **options}), loss, TEMPERATURE, ROLES)


def state(model):
    """Every weight, cloned."""
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def moved(model, before):
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


def naive_logprobs(model, trajectories, temperature=TEMPERATURE):
    """One trajectory at a time, the full forward pass and softmax, in the model's dtype; live targets alone."""
    found = []
    with torch.no_grad():
        for t in trajectories:
            logits_TV = model(input_ids=torch.tensor([t.token_ids])).logits[0]
            logp_TV = (logits_TV / temperature).log_softmax(-1)
            found += [logp_TV[i - 1, t.token_ids[i]] for i in range(1, len(t.token_ids)) if t.loss_mask[i]]
    return torch.stack(found).double()


def real_trajectories(tokenizer, model, index, role="policy", samples=4, sampler=None):
    sampler = sampler or LocalSampler(model, tokenizer, max_rows=4, max_context=512)
    rollout = Rollout(sampler, ToolPool(SearchTool(index, 1)), Chat(tokenizer), Limits(3, 24, 512), TEMPERATURE)
    task = roles.policy_task("t", "Which river runs through Mira's birthplace?", "compact")

    async def run():
        return await asyncio.gather(*(rollout.run(task, i, 1, role) for i in range(samples)))

    return list(asyncio.run(run()))


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_logprobs_equal_a_naive_softmax(model, layout):
    trajectories, advantage = ragged()
    model.set_adapter("grm")
    exact = naive_logprobs(copy.deepcopy(model).double(), trajectories)
    own = (naive_logprobs(model, trajectories) - exact).abs().max()
    ours = learner_of(model, layout=layout).logprobs(make_batch(trajectories, advantage)).detach().double()
    assert (ours - exact).abs().max() <= 2 * own + 64 * EPS * exact.abs().max()
    model.set_adapter("policy")
    assert (naive_logprobs(model, trajectories) - exact).abs().max() > 1e-2  # another adapter would have been noticed


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
        dataclasses.replace(t, logprobs=tuple(_full(t, naive_logprobs(model, [t]).tolist()))) for t in (good, bad)
    ]
    before = [float(naive_logprobs(model, [t]).sum()) for t in on_policy]
    learner_of(model, learning_rate=1e-3).step("policy", on_policy, [1.0, -1.0])
    after = [float(naive_logprobs(model, [t]).sum()) for t in on_policy]
    assert after[0] > before[0] + 0.01 and after[1] < before[1] - 0.01


def _full(t, live):
    """Log-probs of the sampled tokens, laid where they were sampled."""
    values = iter(live)
    return [next(values) if flag else 0.0 for flag in t.loss_mask]


def test_on_policy_stats(tokenizer, model, index):
    """The sampler's log-probs are the learner's, on real rollouts; then every ratio is 1 and nothing is clipped."""
    trajectories = real_trajectories(tokenizer, model, index)
    stats = learner_of(model).step("policy", trajectories, [1.0, -1.0, 0.5, -0.5])
    assert 0 < stats.mismatch < 1e-4
    assert stats.clip_share == 0.0 and stats.ratio_max == pytest.approx(1.0, abs=1e-3)
    assert stats.live_tokens == sum(t.n_sampled for t in trajectories)
    weighted = sum(a * t.n_sampled for a, t in zip([1.0, -1.0, 0.5, -0.5], trajectories, strict=True))
    assert stats.loss == pytest.approx(-weighted / stats.live_tokens, abs=1e-4)  # ratios of 1: minus the mean advantage


def test_kl_of_a_fresh_adapter_is_zero_and_then_grows(tokenizer, index):
    model = adapter.add_adapters(tiny_model(tokenizer), 4, 8.0, seed=0)
    learner, trajectories = learner_of(model), real_trajectories(tokenizer, model, index)
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
        parameters = adapter.parameters_of(learner.model, "policy")
        learner.optimizers["policy"].register_step_pre_hook(
            lambda *_, p=parameters: seen.append(float(torch.cat([w.grad.flatten() for w in p]).norm()))
        )
        norm = learner.step("policy", *trajectories).grad_norm
        assert seen[-1] == pytest.approx(min(norm, clip), rel=1e-3)
        assert norm > 1e-2
    assert seen[0] > seen[1]


def test_a_gradient_that_is_not_finite_is_refused(model):
    trajectories, advantage = ragged()
    before, learner = state(model), learner_of(model)
    with pytest.raises(UserError, match=r"policy: .*learning_rate"):
        learner.step("policy", trajectories, [float("inf"), *advantage[1:]])
    assert not moved(model, before) and learner.version["policy"] == 0
    assert all(p.grad is None for p in model.parameters())


def test_normalizer_counts_what_is_there(model):
    """Sequence means divide by the trajectories that have a live token; token means by the live tokens."""
    trajectories, _ = ragged()
    silent = dataclasses.replace(trajectories[1], loss_mask=(0,) * 17)
    assert learner_of(model, LossConfig(aggregate="sequence_mean"))._normalizer([*trajectories, silent]) == 8
    live = sum(t.n_sampled for t in trajectories)
    assert learner_of(model)._normalizer([*trajectories, silent]) == live


def greedy(sampler, tokenizer, adapter_name):
    ids = tuple(tokenizer("tell me", add_special_tokens=False)["input_ids"])
    request = SampleRequest(ids, f"s-{adapter_name}", adapter_name, 12, 0.0)
    return asyncio.run(sampler.generate(request))


def test_the_sampler_uses_the_new_weights(tokenizer, model):
    sampler, learner = LocalSampler(model, tokenizer, max_rows=4, max_context=256), learner_of(model, learning_rate=0.1)
    old = {role: greedy(sampler, tokenizer, role) for role in ("policy", "grm")}
    learner.step("policy", *ragged())
    sampler.flush()
    fresh = LocalSampler(model, tokenizer, max_rows=4, max_context=256)
    assert greedy(sampler, tokenizer, "policy").logprobs == greedy(fresh, tokenizer, "policy").logprobs
    assert greedy(sampler, tokenizer, "policy").logprobs != old["policy"].logprobs
    assert greedy(sampler, tokenizer, "grm") == old["grm"]


def test_sampler_and_learner_leave_the_shared_model_in_order(tokenizer, model, index):
    """Mode, active adapter and trainable weights after each, whatever came before."""
    sampler, learner = LocalSampler(model, tokenizer, max_rows=4, max_context=512), learner_of(model)
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
    """The adapters that have trainable weights; "base" for any other weight."""
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    return {next((role for role in ROLES if f".{role}." in name), "base") for name in names}


def test_same_seed_same_steps(tokenizer):
    runs = []
    for _ in range(2):
        model = adapter.add_adapters(tiny_model(tokenizer), 4, 8.0, seed=3)
        stir(model)
        learner = learner_of(model)
        runs.append(([learner.step("policy", *ragged()) for _ in range(2)], state(model)))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(weight, runs[1][1][name]) for name, weight in runs[0][1].items())
