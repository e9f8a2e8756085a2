"""The learner on a tiny random model: exact log-probs, one role's adapter moves and nothing else, the sampler agrees.

Tolerance of log-probs: float32 against a naive float64 softmax over the full vocabulary. Torch's own float32 error on
the same numbers is measured in the test; ours may be twice that plus 64 roundings at the size of the log-probs.
"""

import asyncio
import copy
import dataclasses

import pytest
import torch

from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.core import ROLES
from aslfast.errors import UserError
from aslfast.learner.batch import loss_positions, make_batch
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.prompts import role_tasks
from aslfast.prompts.chat_template import Chat
from aslfast.rollout.multi_turn import Limits, Rollout
from aslfast.rollout.search_tool import SearchTool
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import SampleRequest
from tests.support.tiny_models import stir, tiny_model
from tests.support.token_streams import grouped, ragged, trajectory

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
    sampler = sampler or LocalSampler(model, tokenizer, max_running_requests=4, max_context=512)
    rollout = Rollout(sampler, ToolExecutor(SearchTool(index, 1)), Chat(tokenizer), Limits(3, 24, 512), TEMPERATURE)
    task = role_tasks.policy_task("t", "Which river runs through Mira's birthplace?", "compact")

    async def run():
        return await asyncio.gather(*(rollout.run(task, i, 1, role) for i in range(samples)))

    return list(asyncio.run(run()))


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


def naive_gradients(model, trajectories, advantage):
    """(loss, the gradient of every weight of the policy's adapter, by name): token by token PPO, one trajectory at a
    time through the whole model, without packing, padding or a fused head."""
    model.set_adapter("policy")
    total, live = 0.0, sum(len(loss_positions(t)) for t in trajectories)
    for t, a in zip(trajectories, advantage, strict=True):
        at = torch.from_numpy(loss_positions(t))
        if not len(at):
            continue
        ids, old = torch.tensor(t.token_ids), torch.tensor(t.logprobs)[at]
        logp_TV = (model(input_ids=ids[None]).logits[0] / TEMPERATURE).log_softmax(-1)
        ratio = (logp_TV[at - 1, ids[at]] - old).exp()
        loss = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a).sum() / live
        loss.backward()
        total += float(loss.detach())
    return total, collected(model)


def collected(model, role="policy"):
    """The gradients of a role's weights, by name, taken away."""
    found = {}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            found[name], weight.grad = weight.grad.double(), None
    assert found and all(f".{role}." in name for name in found)
    return found


def gradients(model, trajectories, advantage, loss=LossConfig(), with_kl=False, **options):  # noqa: B008
    learner = learner_of(model, loss, **options)
    model.set_adapter("policy")
    normalizer = float(sum(len(loss_positions(t)) for t in trajectories))
    sums = learner.accumulate(trajectories, advantage, normalizer, with_kl)
    return sums.loss, collected(model)


def assert_close(found, exact, own, floor=64):
    """Each weight's gradient: its error at most twice `own`'s plus some roundings at the size of the whole."""
    assert found.keys() == exact.keys() == own.keys()
    size = max(float(g.abs().max()) for g in exact.values())
    for name, gradient in exact.items():
        bound = 2 * float((own[name] - gradient).abs().max()) + floor * EPS * size
        assert float((found[name] - gradient).abs().max()) <= bound, name


WAYS = {
    "one pack": {"share_prefix": "never"},
    "one pack, shared": {"share_prefix": "always"},
    "many packs": {"share_prefix": "never", "micro_batch_tokens": 60},
    "many packs, shared": {"share_prefix": "always", "micro_batch_tokens": 100},
    "one each": {"micro_batch_tokens": 1},
    "layers again": {"activation_checkpointing": "layers", "share_prefix": "always"},
    "selective": {"activation_checkpointing": "selective", "share_prefix": "always"},
    "selective, many packs": {"activation_checkpointing": "selective", "micro_batch_tokens": 60},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("made_by", [ragged, grouped])
def test_every_way_gives_the_gradient_of_a_naive_loop(model, made_by, way):
    """Packed or not, shared or not, kept or computed again: the loss and every adapter gradient. In float64 they agree
    up to the loss's float32 arithmetic; in float32 ours is as near as the loop's own, twice over."""
    trajectories, advantage = made_by()
    model64 = copy.deepcopy(model).double()
    exact_loss, exact = naive_gradients(model64, trajectories, advantage)
    own_loss, own = naive_gradients(model, trajectories, advantage)
    for which, reference in ((model64, exact), (model, own)):
        loss, found = gradients(which, trajectories, advantage, **WAYS[way])
        assert_close(found, exact, reference)
        assert loss == pytest.approx(
            exact_loss, abs=2 * abs(own_loss - exact_loss) + 64 * EPS * max(1, abs(exact_loss))
        )
    assert max(float(g.abs().max()) for g in exact.values()) > 1e-3


def test_order_of_trajectories_does_not_matter(model):
    trajectories, advantage = grouped()
    _, one = gradients(model, trajectories, advantage)
    _, other = gradients(model, trajectories[::-1], advantage[::-1])
    assert_close(other, one, one)


def test_a_shared_prefix_must_carry_every_gradient(model):
    """What the test above would miss nowhere: without the gradient of one sample's suffix, the prefix's is another."""
    trajectories, advantage = grouped()
    _, all_of_them = gradients(model, trajectories, advantage, share_prefix="always")
    _, but_one = gradients(model, trajectories, [0.0, *advantage[1:]], share_prefix="always")
    size = max(float(g.abs().max()) for g in all_of_them.values())
    assert max(float((all_of_them[n] - but_one[n]).abs().max()) for n in but_one) > 1e-2 * size


def saved_bytes(run):
    """What the backward pass of `run` keeps, each storage once, weights left out."""
    kept = {}

    def keep(x):
        if not isinstance(x, torch.nn.Parameter):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = run()
    assert out.requires_grad
    return sum(kept.values())


def test_checkpointing_keeps_less(model):
    model.set_adapter("policy")
    made, sizes = make_batch(*grouped()), {}
    for kind in ("none", "selective", "layers"):
        learner = learner_of(model, activation_checkpointing=kind)
        with learner._learning_mode():
            sizes[kind] = saved_bytes(lambda learner=learner: learner._logprobs(made, learner._attend(made)))
    assert sizes["layers"] < 0.5 * sizes["none"]
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())


@pytest.mark.parametrize("activation_checkpointing", ["none", "layers", "selective"])
def test_a_bfloat16_base_trains_float32_adapters(tokenizer, activation_checkpointing):
    """Weights, gradients and optimizer state stay float32; log-probs are as near to float64 as the plain forward pass
    in bfloat16 is, twice over; no layer's input is widened and kept."""
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
    with learner._learning_mode():
        attend = learner._attend(made)
        ours = saved_bytes(lambda: learner._hidden(made, attend))
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = True
        inputs = {"input_ids": made.input_T[None], "position_ids": made.position_T[None], "attend": attend}
        plain = saved_bytes(lambda: learner.base.get_decoder()(**inputs, use_cache=False).last_hidden_state)
    # two blocks; seven layers read four different inputs: of width 32 for three, one, two of them, and of 48
    widened, as_they_are = 4 * 2 * (3 * 32 + 32 + 2 * 32 + 48), 2 * 2 * (32 + 32 + 32 + 48)
    assert ours <= plain - (widened - as_they_are) * len(made.input_T)


# --- what is not finite ------------------------------------------------------------------------------------------


def poisoned(*at):
    """grouped(), with a log-prob of the sampler at these trajectories that makes their loss NaN."""
    trajectories, advantage = grouped()
    for i in at:
        spoilt = tuple(float("nan") if live else 0.0 for live in trajectories[i].loss_mask)
        trajectories[i] = dataclasses.replace(trajectories[i], logprobs=spoilt)
    return trajectories, advantage


def spoken(trajectories):
    return [i for i, t in enumerate(trajectories) if t.n_sampled]


def test_a_step_that_is_not_finite_moves_nothing_and_names_who_did_it(model):
    learner = learner_of(model)
    learner.step("policy", *grouped())
    weights, moments = state(model), copy.deepcopy(learner.optimizers["policy"].state_dict())
    bad = spoken(grouped()[0])[1:3]
    trajectories, advantage = poisoned(*bad)
    stats = learner.step("policy", trajectories, advantage)
    assert stats.loss is stats.grad_norm is stats.mismatch is None and stats.skipped_steps == 1
    assert set(stats.not_finite) == {trajectories[i].task.id for i in bad}
    assert not moved(model, weights) and learner.version["policy"] == 1
    after = learner.optimizers["policy"].state_dict()
    for one, other in zip(moments["state"].values(), after["state"].values(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(p.grad is None for p in model.parameters())
    again = learner.step("policy", *grouped())
    assert again.grad_norm > 0 and again.skipped_steps == 1 and again.not_finite == ()


def test_an_infinite_gradient_of_a_finite_loss_is_found(model):
    """An advantage whose gradient's square is beyond float32: the norm overflows, the loss does not."""
    learner, (trajectories, advantage) = learner_of(model), grouped()
    chosen = spoken(trajectories)[0]
    stats = learner.step("policy", trajectories, [1e30 if i == chosen else a for i, a in enumerate(advantage)])
    assert stats.not_finite == (trajectories[chosen].task.id,) and stats.mismatch > 0
    assert stats.grad_norm is None and learner.version["policy"] == 0


def test_the_run_ends_after_so_many_in_a_row(model):
    learner = learner_of(model, max_skipped_steps=2)
    learner.step("policy", *poisoned(spoken(grouped()[0])[0]))
    learner.step("policy", *grouped())  # a sound one between: the count starts anew
    learner.step("grm", *poisoned(spoken(grouped()[0])[0]))
    bad = spoken(grouped()[0])[2]
    name = grouped()[0][bad].task.id
    with pytest.raises(
        UserError,
        match=rf"policy: no finite gradient in 2 steps in a row \(learner.max_skipped_steps\), .* {name}; lower",
    ):
        learner.step("policy", *poisoned(bad))


# --- the reference and the sampler -------------------------------------------------------------------------------


def test_the_base_is_asked_only_where_something_reads_it(model):
    """A forward pass saved is a metric not measured: None, never a stale or made-up number."""
    passes = []
    model.get_base_model().get_decoder().register_forward_hook(lambda *_: passes.append(model.active_adapters))
    every = learner_of(model, kl_every=3)
    kls = [every.step("policy", *ragged()).kl for _ in range(6)]
    assert [kl is not None for kl in kls] == [False, False, True, False, False, True]
    assert len(passes) == 6 + 2
    never = learner_of(model, kl_every=0)
    assert [never.step("policy", *ragged()).kl for _ in range(5)] == [None] * 5
    always = learner_of(model, LossConfig(kl_coef=0.1), kl_every=0)
    assert always.step("policy", *ragged()).kl > 0


def off_by(trajectories, model, noise):
    """On-policy but for the sampler's log-probs, which are off by seeded noise of this size."""
    model.set_adapter("policy")
    g = torch.Generator().manual_seed(0)
    found, shifts = [], []
    for t in trajectories:
        logp = naive_logprobs(model, [t]) if t.n_sampled else torch.empty(0)
        shift = noise * torch.randn(len(logp), generator=g, dtype=torch.float64)
        found.append(dataclasses.replace(t, logprobs=tuple(_full(t, (logp + shift).tolist()))))
        shifts.append(shift)
    return found, torch.cat(shifts)


def test_mismatch_is_measured(model):
    trajectories, advantage = grouped()
    trajectories, shift = off_by(trajectories, model, 0.3)
    stats = learner_of(model).step("policy", trajectories, advantage)
    assert stats.mismatch == pytest.approx(float(shift.abs().mean()), rel=1e-4)
    assert stats.mismatch_max == pytest.approx(float(shift.abs().max()), rel=1e-4)
    assert stats.mismatch_kl == pytest.approx(float(((-shift).exp() - 1 + shift).mean()), rel=1e-3)


def test_truncated_importance_sampling_is_its_formula(model):
    """d loss = - sum_t min(pi_t / mu_t, C) A_t d log pi_t / N, with mu off by known noise; checked on every weight."""
    cap, (trajectories, advantage) = 1.1, grouped()
    model64 = copy.deepcopy(model).double()
    trajectories, shift = off_by(trajectories, model64, 0.3)
    _, ours = gradients(model64, trajectories, advantage, LossConfig(tis_cap=cap))
    weight, live = torch.exp(-shift).clamp(max=cap), len(shift)
    assert 0.2 < float((weight == cap).double().mean()) < 0.8
    start = 0
    for t, a in zip(trajectories, advantage, strict=True):
        at = torch.from_numpy(loss_positions(t))
        if len(at):
            ids = torch.tensor(t.token_ids)
            logp = (model64(input_ids=ids[None]).logits[0] / TEMPERATURE).log_softmax(-1)[at - 1, ids[at]]
            (-(weight[start : start + len(at)] * a * logp).sum() / live).backward()
            start += len(at)
    exact = collected(model64)
    assert_close(ours, exact, exact)
    _, plain = gradients(model64, trajectories, advantage)
    size = max(float(g.abs().max()) for g in exact.values())
    assert max(float((plain[n] - exact[n]).abs().max()) for n in exact) > 1e-2 * size  # without it another gradient


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
    """Mode, active adapter and trainable weights after each, whatever came before."""
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
    """The adapters that have trainable weights; "base" for any other weight."""
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
