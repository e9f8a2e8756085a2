"""The fused head that `patch_trl` puts in TRL's place, called as TRL calls it, against float64."""

import dataclasses

import pytest
import torch

from aslfast_kernels.integrations.trl import FusedHead
from tests.support.kernels.exact_logprob import EPS32, problem
from tests.support.kernels.host_contracts import HEAD_CASES, HeadCase, stock_head
from tests.support.matrix_products import count_products


def call(case, head, leaves, target):
    """Call `apply` as `trl.trainer.utils.add_fused_lm_head` does, by position."""
    hidden, weight, bias = leaves
    outputs = ("log_probs",) if case.entropy == "none" else ("log_probs", "entropy")
    return head.apply(hidden, weight, bias, target, case.temperature, 32768, case.softcap, case.scale, outputs)


def leaves_of(case, dtype):
    hidden, weight, bias, target, upstream = problem((19, 16, 301), torch.float32)
    made = [x.to(dtype).requires_grad_(not case.frozen) for x in (hidden, weight, bias)]
    made[0].requires_grad_()
    return [made[0], made[1], made[2] if case.bias else None], target, upstream.to(dtype)


def backward(case, results, upstream):
    logp, entropy = results[:2]
    loss = (logp * upstream[0]).sum()
    if case.entropy == "trained":
        loss = loss + (entropy * upstream[1]).sum()
    loss.backward()


@pytest.mark.parametrize("case", HEAD_CASES, ids=lambda case: case.name)
def test_values_and_gradients(case, impl):
    """At most twice the error of float32 through the logits, plus 8 roundings of the largest logit or value."""
    runs = {}
    for name, dtype in (("exact", torch.float64), ("own", torch.float32), ("ours", torch.float32)):
        leaves, target, upstream = leaves_of(case, dtype)
        run = stock_head(case, *leaves, target) if name != "ours" else call(case, FusedHead(impl), leaves, target)
        backward(case, run, upstream)
        values = [x.detach() for x in run[:2] if x is not None]
        runs[name] = values + [x.grad for x in leaves if x is not None and x.requires_grad]
        if name == "ours":
            assert run[2:] == (None, None, None) and (run[1] is None) == (case.entropy == "none")
            runs["own"] = runs["own"][: 1 + (case.entropy != "none")] + runs["own"][2:]
            runs["exact"] = runs["exact"][: 1 + (case.entropy != "none")] + runs["exact"][2:]
    assert len(runs["ours"]) == len(runs["exact"]) > 1
    for got, own, exact in zip(runs["ours"], runs["own"], runs["exact"], strict=True):
        floor = 8 * EPS32 * max(float(exact.abs().max()), 8.0 * case.scale / case.temperature)
        assert float((got.double() - exact).abs().max()) <= 2 * float((own.double() - exact).abs().max()) + floor


@pytest.mark.parametrize(("entropy", "products"), [("none", 2), ("logged", 2), ("trained", 4)])
def test_a_logged_entropy_costs_no_product(entropy, products, monkeypatch):
    """With a frozen head: 2 for forward and backward; a gradient through the entropy takes 2 more."""
    case = HeadCase("frozen", frozen=True, entropy=entropy)
    counter = count_products(monkeypatch)
    leaves, target, upstream = leaves_of(case, torch.float32)
    backward(case, call(case, FusedHead("torch"), leaves, target), upstream)
    assert counter.flops == products * 2 * 19 * 16 * 301


def test_no_loss_token_is_a_zero_with_a_gradient(impl):
    """TRL scatters an empty result and calls backward: every parameter's gradient is 0, not missing."""
    leaves, _, _ = leaves_of(HEAD_CASES[0], torch.float32)
    head, empty = FusedHead(impl), torch.zeros(0, dtype=torch.long)
    logp, entropy, *_ = head.apply(
        leaves[0][:0], leaves[1], None, empty, 1.0, 32768, None, 1.0, ("log_probs", "entropy")
    )
    mask = torch.zeros(2, 3, dtype=torch.bool)
    logp.new_zeros(2, 3).masked_scatter(mask, logp).sum().backward()
    assert entropy.shape == (0,)
    assert [float(x.grad.abs().sum()) for x in leaves[:2]] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"outputs": ("log_probs", "entropy", "is_top1")}, NotImplementedError, "asks for is_top1"),
        ({"outputs": ("mean_logits", "log_sum_sq_probs")}, NotImplementedError, "asks for mean_logits, log_sum_sq"),
        ({"zero3": True}, NotImplementedError, "ZeRO-3"),
        ({"scale": -1.0}, ValueError, "logit_scale: got -1.0"),
        ({"scale": 0.0}, ValueError, "logit_scale: got 0.0"),
        ({"softcap": 0.0}, ValueError, "softcap: got 0.0"),
    ],
)
def test_refuses_what_it_cannot_do_exactly(change, error, message):
    case = HEAD_CASES[0]
    (hidden, weight, _), target, _ = leaves_of(case, torch.float32)
    if change.get("zero3"):
        weight.ds_id = 7
    fields = {name: value for name, value in change.items() if name in ("scale", "softcap")}
    case, outputs = dataclasses.replace(case, **fields), change.get("outputs", ("log_probs",))
    with pytest.raises(error, match=message):
        FusedHead(None).apply(hidden, weight, None, target, 1.0, 32768, case.softcap, case.scale, outputs)
