"""What `patch_prime_rl` puts in prime-rl's place, called as its heads call it, and its losses by import path, against
the re-stated ones and, where prime-rl is installed, its own.
"""

import importlib
import sys

import pytest
import torch

from aslfast_kernels import aggregate_loss, dppo_loss, kl_estimate, patch_prime_rl
from aslfast_kernels.integrations.prime_rl import policy_loss
from tests.support.kernels import prime_rl_contract as restated
from tests.support.kernels.host_contracts import stand_in_modules
from tests.support.matrix_products import count_products

LAYERS = "prime_rl.trainer.models.layers"
HEADS = {None: ("lm_head", "_SequenceChunkedLogProbEntropyFn"), 3.0: ("lm_head_gemma", "_GemmaChunkedLogProbEntropyFn")}


@pytest.fixture(params=["re-stated", "installed"])
def host(request, monkeypatch):
    """Return prime-rl's (namespace of a head, namespace of the losses, whether its own functions are at hand)."""
    if request.param == "installed":
        pytest.importorskip(f"{LAYERS}.lm_head", exc_type=ImportError)
        importlib.import_module(f"{LAYERS}.lm_head_gemma")
        importlib.import_module("prime_rl.trainer.rl.loss")
    else:
        for name, module in stand_in_modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    return lambda name: vars(sys.modules[name]), request.param == "installed"


def problem(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(19, 16, generator=g), torch.randn(301, 16, generator=g)
    temperature = torch.tensor([0.7, 1.0, 1.7])[torch.arange(19) % 3]
    return hidden.to(dtype), weight.to(dtype), torch.randint(301, (19,), generator=g), 1.0 / temperature.to(dtype)


def run(function, softcap, frozen, dtype=torch.float32):
    """Return log-probs, entropy and the gradients, as prime-rl's `forward` of a head makes them."""
    hidden, weight, labels, inverse = problem(dtype)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_(not frozen)
    more = () if softcap is None else (softcap,)
    logp, entropy = function(hidden, weight, labels, inverse, 7, *more)
    (logp * torch.linspace(-1, 2, 19)).sum().backward()
    return [logp.detach(), entropy.detach(), hidden.grad, *([] if frozen else [weight.grad])]


@pytest.mark.parametrize("softcap", HEADS)
@pytest.mark.parametrize("frozen", [False, True])
def test_heads(softcap, frozen, host):
    """Ours and prime-rl's float32, both against float64 through the logits: at most 1e-5 of the largest."""
    module, name = HEADS[softcap]
    find, installed = host
    exact = run(restated.stock_head, softcap, frozen, torch.float64)
    stock = find(f"{LAYERS}.{module}")[name]
    runs = [run(stock.apply, softcap, frozen)] if installed else []
    with patch_prime_rl():
        runs.append(run(find(f"{LAYERS}.{module}")[name].apply, softcap, frozen))
    for one in runs:
        for got, want in zip(one, exact, strict=True):
            assert got.shape == want.shape
            assert float((got.double() - want).abs().max()) <= 1e-5 * float(want.abs().max())
    assert find(f"{LAYERS}.{module}")[name] is stock


@pytest.mark.parametrize(("frozen", "products"), [(True, 2), (False, 4)])
def test_products(frozen, products, monkeypatch):
    """Of all temperatures together; prime-rl's own frozen head takes 3."""
    for name, module in stand_in_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    counter = count_products(monkeypatch)
    with patch_prime_rl():
        run(sys.modules[f"{LAYERS}.lm_head"]._SequenceChunkedLogProbEntropyFn.apply, None, frozen)
    assert counter.flops == products * 2 * 19 * 16 * 301


def test_too_many_temperatures_are_refused(host):
    find, _ = host
    with patch_prime_rl(), pytest.raises(ValueError, match="temperature: got 65 different ones"):
        find(f"{LAYERS}.lm_head")["_SequenceChunkedLogProbEntropyFn"].apply(
            torch.zeros(65, 4), torch.zeros(9, 4), torch.zeros(65, dtype=torch.long), torch.arange(1.0, 66.0), 7
        )


def sample(weights=False):
    g = torch.Generator().manual_seed(0)
    old = -2.0 * torch.rand(50, generator=g, dtype=torch.float64) - 0.1
    new = (old + 0.4 * torch.randn(50, generator=g, dtype=torch.float64)).clamp(max=-0.01)
    more = {"loss_weights": torch.rand(50, generator=g, dtype=torch.float64)} if weights else {}
    columns = {
        "inference_logprobs": old,
        "ref_logprobs": old - 0.1,
        "advantages": torch.randn(50, generator=g).double(),
    }
    return {"trainer_logprobs": new, "loss_mask": torch.rand(50, generator=g) < 0.7} | columns | more


def test_the_hook_patches_before_the_first_forward_and_leaves_the_loss(host, monkeypatch):
    """prime-rl imports the loss by path: the head is patched from then on; the default loss is its own."""
    find, _ = host
    path = "aslfast_kernels.integrations.prime_rl_hook"
    monkeypatch.delitem(sys.modules, path, raising=False)
    before = find(f"{LAYERS}.lm_head")["_SequenceChunkedLogProbEntropyFn"]
    hook = importlib.import_module(path)
    try:
        assert find(f"{LAYERS}.lm_head")["_SequenceChunkedLogProbEntropyFn"] is not before
        inputs, theirs = restated.LossInputs(**sample()), find("prime_rl.trainer.rl.loss")
        got = hook.default_loss(inputs, kl_tau=0.1).loss
        want = theirs["default_loss_fn"](inputs, theirs["DefaultLossConfig"](kl_tau=0.1)).loss
        assert float(got) == float(want) != 0.0
    finally:
        hook.patch.undo()
        del sys.modules[path]
    assert find(f"{LAYERS}.lm_head")["_SequenceChunkedLogProbEntropyFn"] is before


@pytest.mark.parametrize("weights", [False, True])
def test_policy_loss_by_import_path(weights, host):
    """The sum over the sample's loss tokens of PPO's clipped surrogate, times prime-rl's weights."""
    columns = sample(weights)
    leaf = columns["trainer_logprobs"].requires_grad_()
    outputs = policy_loss(restated.LossInputs(**columns), clip_high=0.28)
    outputs.loss.backward()
    other = columns["trainer_logprobs"].detach().clone().requires_grad_()
    ratio, a = (other - columns["inference_logprobs"]).exp(), columns["advantages"]
    terms = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a) * columns["loss_mask"]
    want = (terms * columns.get("loss_weights", 1.0)).sum()
    want.backward()
    assert float(outputs.loss.detach()) == pytest.approx(float(want.detach()), rel=1e-12)
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-12, atol=1e-14)
    assert type(outputs) is host[0]("prime_rl.trainer.rl.loss")["LossOutputs"]
    assert 0 < float(outputs.metrics["clip_fraction"]) < 1 and float(outputs.metrics["approx_kl"]) > 0


@pytest.mark.parametrize("kl_tau", [0.0, 0.1])
def test_the_default_loss_by_our_terms(kl_tau, host):
    """Its gradient: DPPO's with no cap, and twice k2 times kl_tau; in float64."""
    columns, theirs = sample(), host[0]("prime_rl.trainer.rl.loss")
    leaf = columns["trainer_logprobs"].requires_grad_()
    config = theirs["DefaultLossConfig"](kl_tau=kl_tau, dppo_mask_low=0.1, dppo_mask_high=0.1)
    theirs["default_loss_fn"](restated.LossInputs(**columns), config).loss.backward()
    other = columns["trainer_logprobs"].detach().clone().requires_grad_()
    given = (other, columns["inference_logprobs"], columns["advantages"])
    mask = {"mask_T": columns["loss_mask"]}
    terms = dppo_loss(*given, low=0.1, high=0.1, ratio_cap=1e9, **mask)
    terms = terms + 2 * kl_tau * kl_estimate(*given[:2], "k2", **mask)
    aggregate_loss(terms, aggregate="constant", normalizer=1.0, **mask).backward()
    torch.testing.assert_close(other.grad, leaf.grad, rtol=1e-12, atol=1e-14)
    assert float(leaf.grad.abs().max()) > 0.1
