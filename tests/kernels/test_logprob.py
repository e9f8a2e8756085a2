"""linear_logprob and logprob against formulas written out in float64.

Tolerance: the largest error may be twice that of torch's own float32 autograd on the same (already rounded) inputs,
plus a floor: 8 units in the last place of float32 at the size of the largest logit (and of the largest value), plus,
for a gradient returned in half precision, that dtype's rounding of it.
"""

import pytest
import torch

from aslfast_kernels import linear_logprob, logprob
from aslfast_kernels.logprobs import reference
from tests.support.kernels.exact_logprob import (
    DTYPES,
    EPS32,
    SCALINGS,
    Case,
    assert_as_exact,
    naive,
    problem,
    run_naive,
)

SHAPES = [(1, 3, 1100), (7, 16, 1), (13, 33, 1100), (64, 8, 257)]


def check_all(function, case):
    """Check values and every gradient of `function(*leaves) -> (logp, entropy)`."""
    exact, torch32 = run_naive(torch.float64, case), run_naive(torch.float32, case)
    leaves = [x.detach().clone().requires_grad_() for x in case.inputs]
    values = function(*leaves)
    sum((v * u).sum() for v, u in zip(values, case.upstream, strict=True)).backward()
    for got, want, own in zip(values, exact[0], torch32[0], strict=True):
        assert got.dtype == torch.float32
        assert_as_exact(got.detach(), want.detach(), own.detach(), exact[2])
    for leaf, want, own in zip(leaves, exact[1], torch32[1], strict=True):
        assert leaf.grad is not None and leaf.grad.dtype == leaf.dtype
        # An error of e in a log-prob is a relative error of e in its p, and so in the gradient.
        assert_as_exact(leaf.grad, want, own, exact[2] * float(want.abs().max()))


@pytest.fixture
def small_chunks(monkeypatch):
    """Five or fewer rows a chunk at V = 1100, so that every size crosses chunk borders."""
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 5 * 1100)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("temperature", "softcap"), SCALINGS)
def test_linear_trainable_head_with_entropy(dtype, shape, temperature, softcap, small_chunks):
    *inputs, target, upstream = problem(shape, dtype)
    mask = torch.arange(shape[0]) % 3 != 1

    def run(hidden, weight, bias):
        options = {"temperature": temperature, "softcap": softcap, "mask": mask}
        return linear_logprob(hidden, weight, target, bias=bias, return_entropy=True, **options)

    check_all(run, Case(inputs, target, upstream, mask, temperature, softcap))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [-30.0, 80.0])
def test_linear_shifted_logits(dtype, shift, small_chunks):
    *inputs, target, upstream = problem((13, 33, 1100), dtype, shift)

    def run(hidden, weight, bias):
        return linear_logprob(hidden, weight, target, bias=bias, return_entropy=True)

    check_all(run, Case(inputs, target, upstream, torch.ones(13, dtype=torch.bool)))


@pytest.mark.parametrize("residual", ["auto", "save", "recompute"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("temperature", "softcap"), SCALINGS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_frozen_head(residual, dtype, temperature, softcap, with_bias, small_chunks):
    hidden, weight, bias, target, upstream = problem((13, 33, 1100), dtype)
    bias = bias if with_bias else None
    mask = torch.arange(13) % 4 != 2
    options = {"temperature": temperature, "softcap": softcap}

    def exact(precision):
        h = hidden.to(precision).requires_grad_()
        raw = h @ weight.to(precision).T + (0 if bias is None else bias.to(precision))
        logp = naive(raw, target, temperature, softcap)[0] * mask
        (logp * upstream[0].to(precision)).sum().backward()
        return logp.detach(), h.grad, float(raw.detach().abs().max()) / temperature

    leaf = hidden.clone().requires_grad_()
    logp = linear_logprob(leaf, weight, target, bias=bias, mask=mask, residual=residual, **options)
    (logp * upstream[0]).sum().backward()
    want, own = exact(torch.float64), exact(torch.float32)
    assert_as_exact(logp.detach(), want[0], own[0], want[2])
    assert_as_exact(leaf.grad, want[1], own[1], want[2] * float(want[1].abs().max()))


@pytest.mark.parametrize(("temperature", "softcap"), SCALINGS)
@pytest.mark.parametrize("scale", [0.125, 3.0])
def test_logit_scale(temperature, softcap, scale):
    """As a head whose logits are `scale` times as large, whatever comes after; from hidden states and from logits."""
    hidden, weight, bias, target, upstream = problem((13, 33, 300), torch.float32)
    options = {"temperature": temperature, "softcap": softcap}
    case = Case([hidden, weight, bias], target, upstream, torch.ones(13), temperature, softcap)

    def scaled(h, w, b):
        return linear_logprob(h, w, target, bias=b, logit_scale=1 / scale, return_entropy=True, **options)

    def of_logits(h, w, b):
        return logprob(h @ w.T + b, target, logit_scale=1 / scale, return_entropy=True, **options)

    for function in (scaled, of_logits):
        check_all(lambda h, w, b, function=function: function(h, w * scale, b * scale), case)


@pytest.mark.parametrize("entropy_weight", [0.0, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_residual_with_entropy(dtype, entropy_weight, small_chunks):
    """The gradient of the log-probs alone comes from the residual; with the entropy's it is made anew."""
    hidden, weight, bias, target, upstream = problem((13, 33, 1100), dtype)
    upstream[1] *= entropy_weight
    mask = torch.arange(13) % 4 != 2

    def run(h):
        logp, entropy = linear_logprob(
            h, weight, target, bias=bias, mask=mask, residual="save", return_entropy=True, temperature=0.7
        )
        return (logp, entropy) if entropy_weight else (logp, entropy.detach())

    case = Case([hidden, weight, bias], target, upstream, mask, 0.7)
    exact, torch32 = run_naive(torch.float64, case), run_naive(torch.float32, case)
    leaf = hidden.clone().requires_grad_()
    values = run(leaf)
    sum((v * u).sum() for v, u in zip(values, upstream, strict=True)).backward()
    for got, want, own in zip(values, exact[0], torch32[0], strict=True):
        assert_as_exact(got.detach(), want.detach(), own.detach(), exact[2])
    assert_as_exact(leaf.grad, exact[1][0], torch32[1][0], exact[2] * float(exact[1][0].abs().max()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [-30.0, 0.0, 80.0])
@pytest.mark.parametrize("inplace", [False, True])
def test_from_logits(dtype, shift, inplace, small_chunks):
    for temperature, softcap in SCALINGS:
        g = torch.Generator().manual_seed(1)
        logits = (torch.randn(13, 1100, generator=g) * 4 + shift).to(dtype)
        target, upstream = torch.randint(1100, (13,), generator=g), torch.randn(2, 13, generator=g)
        mask = torch.arange(13) % 3 != 0
        options = {"temperature": temperature, "softcap": softcap, "mask": mask, "inplace_backward": inplace}

        def run(leaf, target=target, options=options):
            # x * 1 is not a leaf: the buffer that the backward may overwrite
            return logprob(leaf * 1, target, return_entropy=True, **options)

        check_all(run, Case([logits], target, upstream, mask, temperature, softcap))


def test_linear_equals_logprob_of_its_logits():
    hidden, weight, bias, target, _ = problem((9, 16, 1100), torch.float32)
    raw = torch.nn.functional.linear(hidden, weight, bias)
    for ours, other in zip(
        linear_logprob(hidden, weight, target, bias=bias, return_entropy=True),
        logprob(raw, target, return_entropy=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, other, rtol=0, atol=16 * EPS32 * float(raw.abs().max()))


def test_half_precision_logits_are_not_rounded():
    """Two classes whose logits, 256 and 256.5, are one number in bf16: the log-prob is -log(1 + e^-0.5)."""
    hidden = torch.tensor([[256.0, 0.5]], dtype=torch.bfloat16)
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.bfloat16)
    exact = -torch.log1p(torch.exp(torch.tensor(-0.5)))
    got = linear_logprob(hidden, weight, torch.tensor([1]))
    torch.testing.assert_close(got, exact[None], rtol=0, atol=EPS32 * 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(linear_logprob(hidden.float(), weight, torch.tensor([1])), exact[None])


@pytest.mark.parametrize("residual", ["save", "recompute"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_rounds_the_factors_alone(residual, dtype):
    """As float32 arithmetic on rounded hidden states and a rounded head: no logit, sum or gradient is rounded."""
    hidden, weight, bias, target, upstream = problem((9, 16, 300), torch.float32)
    results = []
    for enabled in (False, True):
        leaf = (hidden if enabled else hidden.bfloat16().float()).to(dtype).requires_grad_()
        head = weight if enabled else weight.bfloat16().float()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            logp = linear_logprob(leaf, head, target, bias=bias, residual=residual)
        (logp * upstream[0]).sum().backward()
        results.append((logp.detach(), leaf.grad))
    for plain, cast in zip(*results, strict=True):
        assert torch.equal(plain, cast)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wide = linear_logprob(hidden.double(), weight.double(), target, bias=bias.double())
    assert torch.equal(wide, linear_logprob(hidden.double(), weight.double(), target, bias=bias.double()))


def test_token_at_probability_one():
    """log p = 0 exactly, entropy 0, gradients 0; every other token keeps a finite log-prob."""
    logits = torch.zeros(2, 1100)
    logits[:, 7] = 300.0
    leaf = logits.requires_grad_()
    logp, entropy = logprob(leaf, torch.tensor([7, 3]), return_entropy=True)
    assert logp.tolist() == [0.0, -300.0]
    assert entropy.tolist() == [0.0, 0.0]
    (logp[0] + entropy.sum()).backward()
    assert float(leaf.grad.abs().max()) == 0.0


def test_forbidden_tokens_count_as_probability_zero():
    """Logits of -inf: as if the columns were absent, in values and in gradients."""
    g = torch.Generator().manual_seed(3)
    kept = torch.randn(4, 10, generator=g, dtype=torch.float64)
    target, upstream = torch.tensor([0, 9, 4, 4]), torch.randn(2, 4, generator=g, dtype=torch.float64)
    wide = torch.cat([kept, torch.full((4, 5), -torch.inf, dtype=torch.float64)], dim=1).requires_grad_()
    small = kept.clone().requires_grad_()
    got, want = logprob(wide, target, return_entropy=True), naive(small, target, 1.0, None)
    for values in (got, want):
        (values[0] * upstream[0] + values[1] * upstream[1]).sum().backward()
    torch.testing.assert_close(torch.stack(got), torch.stack(want), rtol=0, atol=1e-14)
    torch.testing.assert_close(wide.grad[:, :10], small.grad, rtol=0, atol=1e-14)
    assert float(wide.grad[:, 10:].abs().max()) == 0.0


@pytest.mark.parametrize("options", [{}, {"temperature": 0.3, "softcap": 2.0}])
def test_gradcheck_float64(options, monkeypatch):
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 2 * 7)
    g = torch.Generator().manual_seed(4)
    make = {"generator": g, "dtype": torch.float64}
    hidden, weight, bias = torch.randn(5, 4, **make), torch.randn(7, 4, **make), torch.randn(7, **make)
    target, mask = torch.tensor([0, 6, -100, 3, 1]), torch.tensor([True, True, False, True, True])
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]

    def trainable(h, w, b):
        return linear_logprob(h, w, target, bias=b, mask=mask, return_entropy=True, **options)

    def frozen(h):
        return linear_logprob(h, weight.detach(), target, bias=bias.detach(), mask=mask, residual="save", **options)

    def from_logits(x):
        return logprob(x, target, mask=mask, return_entropy=True, **options)

    assert torch.autograd.gradcheck(trainable, leaves)
    assert torch.autograd.gradcheck(frozen, leaves[:1])
    assert torch.autograd.gradcheck(from_logits, [torch.randn(5, 7, **make).requires_grad_()])


@pytest.mark.parametrize("tokens", [0, 6])
@pytest.mark.parametrize("frozen", [True, False])
def test_no_loss_token(tokens, frozen):
    hidden, weight = torch.randn(tokens, 4).requires_grad_(), torch.randn(9, 4).requires_grad_(not frozen)
    target, mask = torch.full((tokens,), -100), torch.zeros(tokens, dtype=torch.bool)
    logp = linear_logprob(hidden, weight, target, mask=mask)
    assert logp.tolist() == [0.0] * tokens
    logp.sum().backward()
    assert hidden.grad.tolist() == [[0.0] * 4] * tokens
    assert frozen or float(weight.grad.abs().max()) == 0.0
    leaf = torch.randn(tokens, 9).requires_grad_()
    logprob(leaf, target, mask=mask).sum().backward()
    assert leaf.grad.tolist() == [[0.0] * 9] * tokens


@pytest.mark.parametrize("residual", ["save", "recompute"])
def test_masked_rows_are_never_read(residual):
    """NaN in masked hidden states and any target there change nothing."""
    hidden, weight, _, target, upstream = problem((8, 5, 40), torch.float32)
    mask = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    results = []
    for fill, bad_target in ((0.0, 0), (torch.nan, -100)):
        leaf = torch.where(mask[:, None], hidden, fill).requires_grad_()
        logp = linear_logprob(leaf, weight, torch.where(mask, target, bad_target), mask=mask, residual=residual)
        (logp * upstream[0]).sum().backward()
        results.append((logp.detach(), leaf.grad))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
        assert float(clean[mask].abs().max()) > 0
        assert float(clean[~mask].abs().max()) == 0.0
