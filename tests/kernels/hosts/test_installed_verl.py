"""verl's own functions on the CPU against the re-stated ones and ours; skipped where verl is not installed."""

import inspect

import pytest
import torch

from aslfast_kernels import (
    aggregate_loss,
    clip_cov_loss,
    dppo_loss,
    gmpo_loss,
    group_advantage,
    kl_cov_loss,
    kl_estimate,
    opo_advantage,
    patch_verl,
    policy_loss,
    sapo_loss,
)
from aslfast_kernels.integrations.verl_loss import VanillaLoss
from tests.support.kernels import host_contracts as host

pytest.importorskip("verl")
import verl.models.transformers.dense_common as dense
import verl.trainer.ppo.core_algos as core
import verl.utils.kernel.linear_cross_entropy as kernel
from verl.models.transformers.monkey_patch import patch_forward_with_backends
from verl.workers.config import ActorConfig, PolicyLossConfig

from tests.support.tiny_architectures import tiny_architecture


def actor(**info):
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=0.15,
        clip_ratio_high=0.28,
        policy_loss=PolicyLossConfig(clip_cov_ratio=0.1, clip_cov_lb=0.01, clip_cov_ub=2.0, kl_cov_ratio=0.1),
    )
    config.global_batch_info.update(info)
    return config


def gradient_step(loss, mode, pieces, info):
    """Return (sum of losses, gradient, metrics of the last) of micro-batches, backward after each."""
    g = torch.Generator().manual_seed(0)
    old = -2.0 + torch.randn(8, 13, generator=g, dtype=torch.float64)
    leaf = (old + 0.7 * torch.randn(8, 13, generator=g, dtype=torch.float64)).requires_grad_()
    advantages = torch.randn(8, 13, generator=g, dtype=torch.float64)
    mask = (torch.rand(8, 13, generator=g) < 0.6).long()
    total, metrics, weights = 0.0, {}, 2 * torch.rand(8, 13, generator=g, dtype=torch.float64)
    counts = {"batch_num_tokens": 8 * int(mask.sum()), "global_batch_size": 64} if info else {}
    for rows in torch.arange(8).chunk(pieces):
        pieces_of = (old[rows], leaf[rows], advantages[rows], mask[rows])
        value, metrics = loss(*pieces_of, mode, actor(**counts, **info), weights[rows])
        value.backward()
        total += float(value.detach())
    return total, leaf.grad, metrics


@pytest.mark.parametrize("mode", host.MODES)
@pytest.mark.parametrize(("pieces", "info"), [(1, {}), (4, {"dp_size": 8, "loss_scale_factor": 100})])
def test_vanilla_loss_is_verls(mode, pieces, info):
    """In float64: ours, and the re-stated loss, against verl's; its sequence means divide by a length + 1e-8."""
    theirs = gradient_step(core.POLICY_LOSS_REGISTRY["vanilla"], mode, pieces, info)
    for loss in (VanillaLoss("torch"), host.stock_vanilla):
        total, gradient, metrics = gradient_step(loss, mode, pieces, info)
        assert total == pytest.approx(theirs[0], rel=1e-8)
        assert float((gradient - theirs[1]).abs().max()) <= 1e-8 * float(theirs[1].abs().max())
        assert metrics == pytest.approx(theirs[2], rel=1e-6)


def gspo_token(logp, old, advantage, **options):
    ids = torch.arange(8).repeat_interleave(13)
    more = {"sequence_ids_T": ids, "ratio_level": "sequence_token", "aggregate": "sequence_mean"}
    return policy_loss(logp, old, advantage, clip_low=0.15, clip_high=0.28, **more, **options)[0]


def gmpo(logp, old, advantage, **options):
    ids = torch.arange(8).repeat_interleave(13)
    return gmpo_loss(logp, old, advantage, ids, clip_low=0.15, clip_high=0.28, **options)


OBJECTIVES = {
    "gspo": (gspo_token, {}, None),
    "sapo": (sapo_loss, {"positive": 1.0, "negative": 1.05}, "sequence_mean"),
    "dppo_tv": (dppo_loss, {"low": 0.15, "high": 0.28, "ratio_cap": 3.0}, "token_mean"),
    "dppo_kl": (dppo_loss, {"low": 0.15, "high": 0.28, "ratio_cap": 3.0, "divergence": "kl"}, "token_mean"),
    "geo_mean": (gmpo, {}, "sequence_mean"),
    "kl_cov": (kl_cov_loss, {"share": 0.1, "coefficient": 0.1}, "token_mean"),
    "clip_cov": (
        clip_cov_loss,
        {"share": 0.1, "bounds": (0.01, 2.0), "clip_low": 0.15, "clip_high": 0.28},
        "token_mean",
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_are_verls(name):
    """Values and gradients in float64; verl adds 1e-8 to a sequence's length."""
    function, options, aggregate = OBJECTIVES[name]
    g = torch.Generator().manual_seed(0)
    old = -2.0 + 0.5 * torch.randn(8, 13, generator=g, dtype=torch.float64)
    new = (old + 0.4 * torch.randn(8, 13, generator=g, dtype=torch.float64)).clamp(max=-0.01)
    advantages = torch.randn(8, 13, generator=g, dtype=torch.float64)
    mask = (torch.rand(8, 13, generator=g) < 0.6).long()
    config, results = actor(), []
    for ours in (False, True):
        leaf = new.clone().requires_grad_()
        torch.manual_seed(1)
        if ours:
            flat = [x.flatten() for x in (leaf, old, advantages)]
            loss = function(*flat, mask_T=mask.flatten(), **options)
            ids = torch.arange(8).repeat_interleave(13)
            keys = {"mask_T": mask.flatten(), "sequence_ids_T": ids, "aggregate": aggregate}
            loss = aggregate_loss(loss, **keys) if aggregate else loss
        else:
            mode = "token-mean" if aggregate == "token_mean" else "seq-mean-token-mean"
            loss, _ = core.POLICY_LOSS_REGISTRY[name](old, leaf, advantages, mask, mode, config)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    for theirs, got in zip(*results, strict=True):
        torch.testing.assert_close(got, theirs, rtol=1e-7, atol=1e-8 * float(theirs.abs().max()))
    assert float(results[0][1].abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "abs", "k1+", "k3+"])
def test_kl_estimates_are_verls(kind):
    """Below 10 nats, at which verl ends k3."""
    g, results = torch.Generator().manual_seed(0), []
    new, ref = (0.5 * torch.randn(50, generator=g, dtype=torch.float64) for _ in range(2))
    for function in (core.kl_penalty, kl_estimate):
        leaf = new.clone().requires_grad_()
        value = function(leaf, ref, kind)
        value.sum().backward()
        results.append(torch.stack([value.detach(), leaf.grad]))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)


def test_advantages_are_verls():
    """GRPO by the std with n - 1 and OPO, each with a group of one."""
    g = torch.Generator().manual_seed(0)
    rewards, ids = torch.randn(7, generator=g), [0, 0, 0, 1, 2, 2, 2]
    mask = (torch.rand(7, 9, generator=g) < 0.7).float()
    spread = torch.zeros(7, 9)
    spread[:, 0], mask[:, 0] = rewards, 1.0
    for by_std in (True, False):
        theirs, _ = core.compute_grpo_outcome_advantage(spread.clone(), mask, ids, norm_adv_by_std_in_grpo=by_std)
        scale = "group" if by_std else "none"
        ours = group_advantage(rewards, torch.tensor(ids), scale=scale, ddof=1, singleton="keep")
        torch.testing.assert_close(ours, theirs[:, 0], rtol=1e-5, atol=1e-6)
    theirs, _ = core.compute_opo_outcome_advantage(spread.clone(), mask, ids)
    ours = opo_advantage(rewards, torch.tensor(ids), mask.sum(1).long(), singleton="keep")
    torch.testing.assert_close(ours, theirs[:, 0], rtol=1e-5, atol=1e-6)


def test_the_patch_takes_hold_and_lets_go():
    before = (kernel.linear_cross_entropy, core.get_policy_loss_fn("vanilla"), dense.forward_with_triton_backend)
    with patch_verl():
        assert isinstance(core.get_policy_loss_fn("vanilla"), VanillaLoss)
        assert kernel.linear_cross_entropy is not before[0]
    after = (kernel.linear_cross_entropy, core.get_policy_loss_fn("vanilla"), dense.forward_with_triton_backend)
    assert after == before


def test_the_restated_function_has_verls_parameters():
    theirs, ours = (inspect.signature(one.LinearCrossEntropy.forward).parameters for one in (kernel, host))
    assert list(theirs) == list(ours)


@pytest.mark.parametrize("kind", ["qwen2", "gemma2"])
def test_a_model_with_fused_kernels(kind, monkeypatch):
    """Log-probs, entropies and gradients of verl's forward, patched, against the model's own logits."""
    model, ids = tiny_architecture(kind), torch.arange(3, 27).view(1, 24)
    monkeypatch.setattr(type(model), "forward", type(model).forward)  # put back after the test
    logits = model(ids).logits / 0.7
    log_p = logits.log_softmax(-1)
    want = log_p.gather(2, ids.roll(-1, -1)[..., None]).flatten(), -(log_p.exp() * log_p).sum(-1).flatten()
    (want[0][:-1].sum()).backward()
    exact = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with patch_verl():
        patch_forward_with_backends(model, use_fused_kernels=True, fused_kernels_backend="triton")
        if kind == "gemma2":  # softcap: verl leaves it out
            with pytest.raises(NotImplementedError, match="final_logit_softcapping"):
                model(input_ids=ids, temperature=0.7, return_dict=True)
            return
        out = model(input_ids=ids, temperature=0.7, return_dict=True)
        out.log_probs[:-1].sum().backward()
    torch.testing.assert_close(torch.stack([out.log_probs, out.entropy]), torch.stack(want), rtol=1e-5, atol=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, exact[name], rtol=1e-4, atol=1e-5 * float(exact[name].abs().max()))
