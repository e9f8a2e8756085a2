"""What `patch_verl` puts in verl's place, called as verl calls it: the fused head and the vanilla loss."""

import sys
import types

import pytest
import torch

from aslfast_kernels import patch_verl
from aslfast_kernels.integrations.verl_loss import VanillaLoss
from tests.support.kernels.exact_logprob import EPS32, problem
from tests.support.kernels.host_contracts import (
    MODES,
    VISION,
    ActorConfig,
    HeadCase,
    stand_in_modules,
    stock_head,
    stock_vanilla,
)


@pytest.fixture
def forward(monkeypatch):
    """Return verl's patched forward of a model."""
    made = stand_in_modules()
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in VISION:
        monkeypatch.setitem(sys.modules, f"verl.models.transformers.{name}", None)
    with patch_verl():
        yield vars(made["verl.models.transformers.dense_common"])["forward_with_triton_backend"]


def model(weight, bias=None, adapter=False, **config):
    head = types.SimpleNamespace(weight=weight, bias=bias)
    if adapter:
        head.base_layer = None
    text = types.SimpleNamespace(**config)
    return types.SimpleNamespace(
        lm_head=head,
        get_output_embeddings=lambda: head,
        config=types.SimpleNamespace(get_text_config=lambda: text),
    )


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("entropy", ["logged", "trained"])
def test_head(frozen, entropy, forward):
    """verl's [2, 9, D] hidden states and [2, 9] labels give [18] each, within twice float32's error through logits."""
    case, runs = HeadCase("", temperature=0.7), {}
    for name, dtype in (("exact", torch.float64), ("own", torch.float32), ("ours", torch.float32)):
        hidden, weight, _, target, upstream = problem((18, 16, 301), torch.float32)
        leaf, head = hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(not frozen)
        if name == "ours":
            run = forward(model(head, logit_scale=1.0), leaf.view(2, 9, 16), target.view(2, 9), 0.7)
        else:
            run = stock_head(case, leaf, head, None, target)
        weights = upstream.to(dtype) if entropy == "trained" else upstream.to(dtype) * torch.tensor([[1.0], [0.0]])
        (torch.stack(list(run)) * weights).sum().backward()
        runs[name] = [*(x.detach() for x in run), leaf.grad, *([] if frozen else [head.grad])]
    for got, own, exact in zip(runs["ours"], runs["own"], runs["exact"], strict=True):
        assert got.shape == exact.shape
        floor = 8 * EPS32 * max(float(exact.abs().max()), 12.0)
        assert float((got.double() - exact).abs().max()) <= 2 * float((own.double() - exact).abs().max()) + floor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final_logit_softcapping": 30.0}, "has final_logit_softcapping"),
        ({"logits_scaling": 8.0}, "has logits_scaling"),
        ({"bias": torch.zeros(301)}, "has a bias of the head"),
        ({"adapter": True}, "has an adapter on the head"),
    ],
)
def test_refuses_a_model_whose_logits_are_more_than_a_product(change, message, forward):
    hidden, weight, _, target, _ = problem((18, 16, 301), torch.float32)
    with pytest.raises(NotImplementedError, match=message):
        forward(model(weight, **change), hidden, target)


def test_refuses_reductions_temperatures_and_ranks(forward, monkeypatch):
    hidden, weight, _, target, _ = problem((18, 16, 301), torch.float32)
    fused = vars(sys.modules["verl.utils.kernel.linear_cross_entropy"])["linear_cross_entropy"]
    with pytest.raises(NotImplementedError, match="reduction 'sum'"):
        fused(hidden, weight, target, 1.0, "sum")
    with pytest.raises(TypeError, match="temperature: got Tensor"):
        fused(hidden, weight, target, torch.ones(18))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: group)
    with pytest.raises(NotImplementedError, match="split over ranks"):
        fused(hidden, weight, target, 1.0, "none", 2)
    assert fused(hidden, weight, target, 1.0, "none", 1)[0].shape == (18,)


def batch(rows=8, width=13):
    """Return verl's arguments for `rows` trajectories, one of them without a loss token, in float64."""
    g = torch.Generator().manual_seed(0)
    old = -2.0 + torch.randn(rows, width, generator=g, dtype=torch.float64)
    new = old + 0.7 * torch.randn(rows, width, generator=g, dtype=torch.float64)
    advantages = torch.randn(rows, width, generator=g, dtype=torch.float64)
    mask = (torch.rand(rows, width, generator=g) < 0.6).long()
    mask[2] = 0
    weights = 2 * torch.rand(rows, width, generator=g, dtype=torch.float64)
    return old, new, advantages, mask, weights


def step(loss, mode, pieces, info, with_weights):
    """Return (sum of losses, gradient) of micro-batches as verl runs them: backward after each, undivided."""
    old, new, advantages, mask, weights = batch()
    leaf, total = new.requires_grad_(), 0.0
    config = ActorConfig(clip_ratio_low=0.15, global_batch_info=info)
    for rows in torch.arange(len(old)).chunk(pieces):
        value, _ = loss(
            old[rows], leaf[rows], advantages[rows], mask[rows], mode, config, weights[rows] if with_weights else None
        )
        value.backward()
        total += float(value.detach())
    return total, leaf.grad


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dp_size", [1, 8])
@pytest.mark.parametrize("with_weights", [False, True])
def test_four_micro_batches_are_verls(mode, dp_size, with_weights):
    """Loss and gradient are verl's in float64; one rank's 4 micro-batches are its 1 batch, counts of 8 ranks given.

    verl divides a sequence's sum by its length + 1e-8.
    """
    tokens = int(batch()[3].sum())
    info = {"dp_size": dp_size, "batch_num_tokens": dp_size * tokens, "global_batch_size": dp_size * 8}
    info["loss_scale_factor"] = 100
    ours = step(VanillaLoss("torch"), mode, 4, info, with_weights)
    theirs = step(stock_vanilla, mode, 4, info, with_weights)
    whole = step(VanillaLoss("torch"), mode, 1, info, with_weights)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-8) and abs(theirs[0]) > 1e-4
    assert float((ours[1] - theirs[1]).abs().max()) <= 1e-8 * float(theirs[1].abs().max())
    torch.testing.assert_close(ours[1], whole[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_without_global_counts(mode):
    """As verl's tests call it: one batch that counts itself; metrics by verl's own formulas."""
    old, new, advantages, mask, _ = batch()
    config = ActorConfig(clip_ratio_c=1.5)
    loss, metrics = VanillaLoss("torch")(old, new, advantages, mask, mode, config)
    want, wanted = stock_vanilla(old, new, advantages, mask, mode, config)
    assert float(loss) == pytest.approx(float(want), rel=1e-8)
    assert metrics == pytest.approx(wanted, rel=1e-6) and min(map(abs, metrics.values())) > 0.001


@pytest.mark.parametrize("mode", MODES)
def test_no_loss_token_is_zero(mode):
    old, new, advantages, mask, _ = batch()
    loss, metrics = VanillaLoss("torch")(old, new.requires_grad_(), advantages, mask * 0, mode, ActorConfig())
    loss.backward()
    assert float(loss.detach()) == 0.0 == float(new.grad.abs().max())
    assert list(metrics.values()) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("info", "mode", "error", "message"),
    [
        ({"dp_size": 8}, "token-mean", ValueError, "batch_num_tokens: got None"),
        ({"dp_size": 8}, "seq-mean-token-mean", ValueError, "global_batch_size: got None"),
        ({}, "seq-max", ValueError, "loss_agg_mode: got 'seq-max'"),
        ({"label_smoothing": 0.1}, "token-mean", TypeError, "label_smoothing"),
    ],
)
def test_refuses_counts_and_modes_it_does_not_know(info, mode, error, message):
    old, new, advantages, mask, _ = batch()
    with pytest.raises(error, match=message):
        VanillaLoss("torch")(old, new, advantages, mask, mode, ActorConfig(global_batch_info=info))
