"""The Triton log-probs against the definitions in float64, in every dtype.

Tolerance: values as in test_logprob.py. A gradient may be off by twice what torch's own is, for logits made in
the same dtype and widened to float32 for the softmax, plus the same floor.
"""

import pytest
import torch
import torch.nn.functional as F

from aslfast_kernels import linear_logprob, logprob
from aslfast_kernels.logprobs import head
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
from tests.support.kernels.triton_interpreter import DEVICE

# In 16 bit, rows of 32 are read as they are, those of 3, 33 and 40 from a copy of whole 16s. 151,936 leaves
# 128 of a tile's 256 columns, as 384 does, and 1100 leaves 12 of a slice's 64.
SHAPES = [(1, 3, 1100), (7, 32, 1), (13, 33, 1100), (70, 40, 384)]


def run_torch(case):
    """Return gradients by torch's autograd over logits in the inputs' dtype."""
    leaves = [x.detach().clone().requires_grad_() for x in case.inputs]
    raw = (leaves[0] if len(leaves) == 1 else F.linear(*leaves)).float()
    values = [v * case.mask for v in naive(raw, case.target, case.temperature, case.softcap)]
    sum((v * u).sum() for v, u in zip(values, case.upstream, strict=True)).backward()
    return [x.grad for x in leaves]


def check(function, case, trained):
    """Check values of `function(*leaves) -> (logp, entropy) or logp`, and gradients of the first `trained` leaves."""
    entropy = trained == len(case.inputs)
    if not entropy:
        case = case._replace(upstream=case.upstream * torch.tensor([[1.0], [0.0]]))
    exact, torch32, own = run_naive(torch.float64, case), run_naive(torch.float32, case), run_torch(case)
    leaves = [x.detach().clone().to(DEVICE).requires_grad_(i < trained) for i, x in enumerate(case.inputs)]
    values = function(*leaves) if entropy else [function(*leaves)]
    sum((v * u.to(DEVICE)).sum() for v, u in zip(values, case.upstream, strict=False)).backward()
    for got, want, other in zip(values, exact[0], torch32[0], strict=False):
        assert got.dtype == torch.float32
        assert_as_exact(got.detach().cpu(), want.detach(), other.detach(), exact[2])
    for leaf, want, other in list(zip(leaves, exact[1], own, strict=True))[:trained]:
        assert leaf.grad is not None and leaf.grad.dtype == leaf.dtype
        assert_as_exact(leaf.grad.cpu(), want, other, exact[2] * float(want.abs().max()))


@pytest.fixture
def small_chunks(monkeypatch):
    """Workspaces of six rows of 300 in 16 bit, three in 32 bit: 13 tokens cross chunk borders."""
    monkeypatch.setattr(head, "WORKSPACE_BYTES", 6 * 320 * 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("temperature", "softcap"), SCALINGS)
def test_trainable_head_with_entropy(dtype, shape, temperature, softcap):
    *inputs, target, upstream = problem(shape, dtype)
    mask = torch.arange(shape[0]) % 3 != 1

    def run(hidden, weight, bias):
        options = {"temperature": temperature, "softcap": softcap, "mask": mask.to(DEVICE), "impl": "triton"}
        return linear_logprob(hidden, weight, target.to(DEVICE), bias=bias, return_entropy=True, **options)

    check(run, Case(inputs, target, upstream, mask, temperature, softcap), 3)


@pytest.mark.parametrize("residual", ["save", "recompute"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("temperature", "softcap"), SCALINGS)
@pytest.mark.parametrize("shape", [(13, 33, 1100), (13, 32, 384)])
def test_frozen_head(residual, dtype, temperature, softcap, shape):
    *inputs, target, upstream = problem(shape, dtype)
    mask = torch.arange(shape[0]) % 4 != 2

    def run(hidden, weight, bias):
        options = {"temperature": temperature, "softcap": softcap, "mask": mask.to(DEVICE), "impl": "triton"}
        return linear_logprob(hidden, weight, target.to(DEVICE), bias=bias, residual=residual, **options)

    check(run, Case(inputs, target, upstream, mask, temperature, softcap), 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (0.7, 3.0)])
def test_saved_residual_with_a_logged_entropy(dtype, temperature, softcap):
    """The residual and the entropy of one product; the entropy passes no gradient on."""
    *inputs, target, upstream = problem((13, 32, 384), dtype)
    mask, entropies = torch.arange(13) % 4 != 2, []

    def run(hidden, weight, bias):
        options = {"temperature": temperature, "softcap": softcap, "mask": mask.to(DEVICE), "impl": "triton"}
        logp, entropy = linear_logprob(
            hidden, weight, target.to(DEVICE), bias=bias, residual="save", return_entropy=True, **options
        )
        entropies.append(entropy.detach().cpu())
        return logp

    case = Case(inputs, target, upstream, mask, temperature, softcap)
    check(run, case, 1)
    exact, torch32 = run_naive(torch.float64, case), run_naive(torch.float32, case)
    assert_as_exact(entropies[0], exact[0][1].detach(), torch32[0][1].detach(), exact[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trained", [1, 3])
def test_chunks(dtype, trained, small_chunks):
    *inputs, target, upstream = problem((13, 32, 300), dtype)

    def run(hidden, weight, bias):
        options = {"return_entropy": trained == 3, "impl": "triton"}
        return linear_logprob(hidden, weight, target.to(DEVICE), bias=bias, **options)

    check(run, Case(inputs, target, upstream, torch.ones(13, dtype=torch.bool)), trained)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [-30.0, 80.0])
@pytest.mark.parametrize("trained", [1, 3])
def test_shifted_logits(dtype, shift, trained):
    *inputs, target, upstream = problem((13, 32, 1100), dtype, shift)

    def run(hidden, weight, bias):
        options = {"return_entropy": trained == 3, "impl": "triton"}
        return linear_logprob(hidden, weight, target.to(DEVICE), bias=bias, **options)

    check(run, Case(inputs, target, upstream, torch.ones(13, dtype=torch.bool)), trained)


def test_without_bias_and_without_gradient():
    hidden, weight, _, target, _ = problem((13, 32, 1100), torch.float32)
    got = linear_logprob(hidden.to(DEVICE), weight.to(DEVICE), target.to(DEVICE), impl="triton")
    want = torch.log_softmax(hidden.double() @ weight.double().T, 1)[torch.arange(13), target]
    torch.testing.assert_close(got.cpu().double(), want, rtol=0, atol=16 * EPS32 * float(want.abs().max()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [-30.0, 0.0, 80.0])
@pytest.mark.parametrize("inplace", [False, True])
def test_from_logits(dtype, shift, inplace):
    for temperature, softcap in SCALINGS:
        g = torch.Generator().manual_seed(1)
        logits = (torch.randn(7, 4200, generator=g) * 4 + shift).to(dtype)
        target, upstream = torch.randint(4200, (7,), generator=g), torch.randn(2, 7, generator=g)
        mask = torch.arange(7) % 3 != 0
        options = {"temperature": temperature, "softcap": softcap, "mask": mask.to(DEVICE), "impl": "triton"}
        options["inplace_backward"] = inplace

        def run(leaf, target=target, options=options):
            # x * 1 is not a leaf: the buffer that the backward may overwrite
            return logprob(leaf * 1, target.to(DEVICE), return_entropy=True, **options)

        check(run, Case([logits], target, upstream, mask, temperature, softcap), 1)


def test_half_precision_logits_are_not_rounded():
    """Two classes whose logits, 256 and 256.5, are one number in bfloat16: the log-prob is -log(1 + e^-0.5)."""
    hidden = torch.tensor([[256.0, 0.5]], dtype=torch.bfloat16, device=DEVICE)
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.bfloat16, device=DEVICE)
    exact = -torch.log1p(torch.exp(torch.tensor([-0.5])))
    got = linear_logprob(hidden, weight, torch.tensor([1], device=DEVICE), impl="triton")
    torch.testing.assert_close(got.cpu(), exact, rtol=0, atol=EPS32 * 2)


def test_token_at_probability_one():
    """log p = 0 exactly, entropy 0, gradients 0; every other token keeps a finite log-prob."""
    hidden = torch.full((2, 16), 1.0, device=DEVICE, requires_grad=True)
    weight = torch.zeros(1100, 16, device=DEVICE)
    weight[7] = 300.0 / 16
    target = torch.tensor([7, 3], device=DEVICE)
    logp, entropy = linear_logprob(hidden, weight, target, return_entropy=True, impl="triton")
    assert logp.tolist() == [0.0, -300.0]
    assert entropy.tolist() == [0.0, 0.0]
    (logp[0] + entropy.sum()).backward()
    assert float(hidden.grad.abs().max()) == 0.0
    (grad,) = torch.autograd.grad(linear_logprob(hidden, weight, target, impl="triton").sum(), hidden)
    torch.testing.assert_close(grad, (weight[target] - weight[7]), rtol=EPS32, atol=0)


def test_forbidden_tokens_count_as_probability_zero():
    """Logits of -inf: as if the columns were absent, in values and in gradients."""
    g = torch.Generator().manual_seed(3)
    kept = torch.randn(4, 10, generator=g)
    target, upstream = torch.tensor([0, 9, 4, 4]), torch.randn(2, 4, generator=g)
    wide = torch.cat([kept, torch.full((4, 5), -torch.inf)], dim=1).to(DEVICE).requires_grad_()
    small = kept.clone().requires_grad_()
    got = logprob(wide, target.to(DEVICE), return_entropy=True, impl="triton")
    want = naive(small, target, 1.0, None)
    for values in (got, want):
        (values[0].cpu() * upstream[0] + values[1].cpu() * upstream[1]).sum().backward()
    torch.testing.assert_close(torch.stack(got).cpu(), torch.stack(want), rtol=0, atol=16 * EPS32)
    torch.testing.assert_close(wide.grad[:, :10].cpu(), small.grad, rtol=0, atol=16 * EPS32)
    assert float(wide.grad[:, 10:].abs().max()) == 0.0


@pytest.mark.parametrize("tokens", [0, 6])
@pytest.mark.parametrize("frozen", [True, False])
def test_no_loss_token(tokens, frozen):
    hidden = torch.randn(tokens, 4, device=DEVICE).requires_grad_()
    weight = torch.randn(9, 4, device=DEVICE).requires_grad_(not frozen)
    target = torch.full((tokens,), -100, device=DEVICE)
    mask = torch.zeros(tokens, dtype=torch.bool, device=DEVICE)
    logp = linear_logprob(hidden, weight, target, mask=mask, impl="triton")
    assert logp.tolist() == [0.0] * tokens
    logp.sum().backward()
    assert hidden.grad.tolist() == [[0.0] * 4] * tokens
    assert frozen or float(weight.grad.abs().max()) == 0.0
    leaf = torch.randn(tokens, 9, device=DEVICE).requires_grad_()
    logprob(leaf, target, mask=mask, impl="triton").sum().backward()
    assert leaf.grad.tolist() == [[0.0] * 9] * tokens


@pytest.mark.parametrize("residual", ["save", "recompute"])
def test_masked_rows_are_never_read(residual):
    """NaN in masked hidden states and any target there change nothing."""
    hidden, weight, _, target, upstream = problem((8, 5, 40), torch.float32)
    mask = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    results = []
    for fill, bad_target in ((0.0, 0), (torch.nan, -100)):
        leaf = torch.where(mask[:, None], hidden, fill).to(DEVICE).requires_grad_()
        targets, options = torch.where(mask, target, bad_target).to(DEVICE), {"mask": mask.to(DEVICE), "impl": "triton"}
        logp = linear_logprob(leaf, weight.to(DEVICE), targets, residual=residual, **options)
        (logp * upstream[0].to(DEVICE)).sum().backward()
        results.append((logp.detach().cpu(), leaf.grad.cpu()))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
        assert float(clean[mask].abs().max()) > 0
        assert float(clean[~mask].abs().max()) == 0.0


def test_strided_inputs_and_float16_gradients_of_tiny_losses():
    """Transposed matrices; and an upstream gradient of 1e-6, whose coefficients float16 could not hold as they are."""
    hidden, weight, _, target, _ = problem((9, 32, 300), torch.float16)
    strided = [x.T.contiguous().T.to(DEVICE).requires_grad_() for x in (hidden, weight)]
    (linear_logprob(*strided, target.to(DEVICE), impl="triton").sum() * 1e-6).backward()
    leaves = [x.double().requires_grad_() for x in (hidden, weight)]
    naive(leaves[0] @ leaves[1].T, target, 1.0, None)[0].sum().backward()
    smallest = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
    for got, want in zip(strided, leaves, strict=True):
        error = (got.grad.cpu().double() - want.grad * 1e-6).abs().max()
        assert error <= smallest, f"{error:.3g}: beyond the spacing of float16 near 0"
