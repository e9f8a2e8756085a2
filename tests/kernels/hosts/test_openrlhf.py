"""What `patch_openrlhf` puts in OpenRLHF's place, called as its actor and trainer call it, against the re-stated ones
and, where OpenRLHF is installed, its own. Losses in float64 within 1e-7 (theirs adds 1e-8 to a sequence's length).
"""

import sys

import pytest
import torch

from aslfast_kernels import patch_openrlhf
from tests.support.kernels.host_contracts import stand_in_modules

SETTINGS = {
    "ppo": {},
    "ppo by sequences": {"token_level_loss": False},
    "dual clip": {"dual_clip": 1.5, "clip_eps_high": 0.28},
    "gspo": {"policy_loss_type": "gspo", "clip_eps_low": 0.05, "clip_eps_high": 0.06},
    "tis": {"kind": "tis"},
    "icepop, dual clip": {"kind": "icepop", "dual_clip": 1.5},
    "seq-mask-tis": {"kind": "seq-mask-tis", "token_level_loss": False},
    "gspo against the sampler": {"policy_loss_type": "gspo", "kind": "tis"},
}


@pytest.fixture(params=["re-stated", "installed"])
def host(request, monkeypatch):
    """Return a function that imports OpenRLHF's modules."""
    if request.param == "installed":
        pytest.importorskip("openrlhf.models.loss", exc_type=ImportError)
    else:
        for name, module in stand_in_modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    return lambda name: vars(sys.modules[f"openrlhf.models.{name}"])


def log_probs(functions, temperature):
    """Return log-probs, the entropy before them as the actor takes it, and the gradient of both."""
    g = torch.Generator().manual_seed(0)
    leaf = (3 * torch.randn(2, 9, 300, generator=g)).requires_grad_()
    labels, logits = torch.randint(300, (2, 9), generator=g), leaf * 1.0
    entropy = functions["compute_entropy"](logits)
    logp = functions["log_probs_from_logits"](logits.clone(), labels, temperature=temperature)
    (logp * torch.linspace(-1, 2, 18).view(2, 9) + 0.3 * entropy).sum().backward()
    return logp.detach(), entropy.detach(), leaf.grad


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropies(temperature, host):
    stock = log_probs(host("utils"), temperature)
    with patch_openrlhf():
        ours = log_probs(host("utils"), temperature)
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        assert float((mine - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_logits_are_left_as_they_are(host):
    """The one difference: OpenRLHF divides them in place."""
    logits, labels = torch.ones(2, 3, 5), torch.zeros(2, 3, dtype=torch.long)
    with patch_openrlhf():
        host("utils")["log_probs_from_logits"](logits, labels, temperature=0.5)
    assert bool((logits == 1.0).all())


def step(host, name, pieces, given):
    """Return (sum of losses, gradient, the last call's numbers) of micro-batches, backward after each."""
    g = torch.Generator().manual_seed(0)
    old = -2.0 + torch.randn(8, 13, generator=g, dtype=torch.float64)
    new = (old + 0.4 * torch.randn(8, 13, generator=g, dtype=torch.float64)).requires_grad_()
    sampler = old + 0.3 * torch.randn(8, 13, generator=g, dtype=torch.float64)
    advantages = torch.randn(8, 13, generator=g, dtype=torch.float64)
    mask = (torch.rand(8, 13, generator=g) < 0.7).long()
    settings = dict(SETTINGS[name])
    if kind := settings.pop("kind", None):
        settings |= {"enable_vllm_is_correction": True, "vllm_is_truncated_threshold": [0.9, 1.2]}
        settings["vllm_is_correction_type"] = kind
    loss_fn, total = host("loss")["PolicyLoss"](**settings), 0.0
    counts = {"dp_size": 8, "batch_num_tokens": 8.0 * int(mask.sum()), "global_batch_size": 64.0} if given else {}
    for rows in torch.arange(8).chunk(pieces):
        columns = [x[rows] for x in (new, old, advantages, mask, sampler)]
        loss, *numbers = loss_fn(*columns, **counts)
        loss.backward()
        total += float(loss.detach())
    return total, new.grad, [None if x is None else float(x) for x in numbers]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("pieces", "given"), [(4, True), (1, False)])
def test_policy_loss(name, pieces, given, host):
    """Four micro-batches with the global batch's counts of 8 ranks, and one that counts itself."""
    theirs = step(host, name, pieces, given)
    with patch_openrlhf():
        ours = step(host, name, pieces, given)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-7) and abs(theirs[0]) > 1e-3
    assert float((ours[1] - theirs[1]).abs().max()) <= 1e-7 * float(theirs[1].abs().max())
    assert ours[2][:2] == pytest.approx(theirs[2][:2], rel=1e-6)
    corrected = "kind" in SETTINGS[name] and "gspo" not in name
    assert ours[2][2] == (pytest.approx(theirs[2][2], rel=1e-6) if corrected else None)


def test_the_constructors_checks_stay_and_a_missing_sampler_is_named(host):
    with patch_openrlhf():
        made = host("loss")["PolicyLoss"]
        loss_fn = made(enable_vllm_is_correction=True, vllm_is_truncated_threshold=[0.5, 2.0])
    assert isinstance(loss_fn, host("loss")["PolicyLoss"]) and loss_fn.clip_eps_low == 0.2
    with pytest.raises(ValueError, match="rollout_log_probs: got None"):
        loss_fn(*(torch.zeros(2, 3) for _ in range(3)), action_mask=torch.ones(2, 3))


def test_no_loss_token_is_zero(host):
    """Where OpenRLHF has 0 / 0."""
    with patch_openrlhf():
        loss_fn = host("loss")["PolicyLoss"]()
    leaf = torch.zeros(2, 3, requires_grad=True)
    loss, *numbers = loss_fn(leaf, torch.zeros(2, 3), torch.ones(2, 3), action_mask=torch.zeros(2, 3))
    loss.backward()
    assert float(loss.detach()) == 0.0 == float(leaf.grad.abs().max())
    assert [float(x) for x in numbers[:2]] == [0.0, 0.0]
