"""Temperatures of each token: from hidden states, and from logits in both implementations.

test_triton_kernels.py runs this file with impl = "triton" too.
"""

import pytest
import torch

from aslfast_kernels import linear_logprob, logprob
from tests.support.kernels.exact_logprob import EPS32, naive, problem


@pytest.mark.parametrize("temperatures", [[0.7], [0.1, 1.0, 5.0]])
@pytest.mark.parametrize("trainable", [False, True])
def test_temperatures_of_tokens(temperatures, trainable):
    """Token by token as a call with that token's temperature; masked tokens' temperatures are never read."""
    hidden, weight, bias, target, upstream = problem((13, 33, 300), torch.float64)
    upstream, mask = upstream.double(), torch.arange(13) % 4 != 2
    temperature_T = torch.tensor(temperatures, dtype=torch.float64)[torch.arange(13) % len(temperatures)]
    results = []
    for one_by_one in (True, False):
        leaves = [x.clone().requires_grad_(i == 0 or trainable) for i, x in enumerate((hidden, weight, bias))]
        options = {"bias": leaves[2], "softcap": 3.0, "return_entropy": True}
        if one_by_one:
            calls = [
                linear_logprob(leaves[0][t : t + 1], leaves[1], target[t : t + 1], temperature=float(value), **options)
                for t, value in enumerate(temperature_T)
            ]
            values = [torch.cat(column) * mask for column in zip(*calls, strict=True)]
        else:
            given = temperature_T.masked_fill(~mask, torch.nan)
            values = linear_logprob(leaves[0], leaves[1], target, temperature=given, mask=mask, **options)
        sum((v * u).sum() for v, u in zip(values, upstream, strict=True)).backward()
        results.append([v.detach() for v in values] + [x.grad for x in leaves if x.requires_grad])
    for exact, got in zip(*results, strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-12)


def test_temperatures_of_no_token_and_of_too_many():
    hidden, weight, _, target, _ = problem((100, 4, 9), torch.float32)
    leaf = hidden.requires_grad_()
    logp = linear_logprob(leaf, weight, target, temperature=torch.ones(100), mask=torch.zeros(100))
    logp.sum().backward()
    assert float(logp.detach().abs().max()) == 0.0 == float(leaf.grad.abs().max())
    with pytest.raises(ValueError, match="temperature: got 100 different ones, expected at most 64"):
        linear_logprob(leaf, weight, target, temperature=torch.arange(1.0, 101.0))
    with pytest.raises(ValueError, match=r"temperature: got 0\.0"):
        linear_logprob(leaf, weight, target, temperature=torch.zeros(100))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_temperatures_of_logits(dtype, softcap, impl, device):
    """Against float64: twice float32's own error and 8 roundings of the largest logit; masked ones hold NaN."""
    logits = (4 * problem((90, 1, 300), torch.float32)[0] + problem((90, 300, 1), torch.float32)[0]).to(dtype)
    g = torch.Generator().manual_seed(1)
    target, upstream = torch.randint(300, (90,), generator=g), torch.randn(2, 90, generator=g)
    temperature, mask = 0.2 + 3 * torch.rand(90, generator=g), torch.arange(90) % 4 != 2  # 90 different ones
    runs = []
    for precision in (torch.float64, torch.float32):
        leaf = logits.detach().to(precision).requires_grad_()
        values = [v * mask for v in naive(1.5 * leaf, target, temperature.to(precision)[:, None], softcap)]
        sum((v * u).sum() for v, u in zip(values, upstream.to(precision), strict=True)).backward()
        runs.append([*(v.detach() for v in values), leaf.grad])
    leaf = logits.detach().to(device).requires_grad_()
    options = {"softcap": softcap, "logit_scale": 1.5, "mask": mask.to(device), "return_entropy": True, "impl": impl}
    given = temperature.masked_fill(~mask, torch.nan).to(device)
    values = logprob(leaf, target.to(device), temperature=given, **options)
    sum((v * u).sum() for v, u in zip(values, upstream.to(device), strict=True)).backward()
    for got, exact, own in zip([*(v.detach() for v in values), leaf.grad], *runs, strict=True):
        floor = 8 * EPS32 * max(float(exact.abs().max()), 100.0) + torch.finfo(got.dtype).eps * exact.abs()
        assert bool(((got.cpu().double() - exact).abs() <= 2 * (own.double() - exact).abs().max() + floor).all())
    assert float(runs[0][2].abs().max()) > 1.0


@pytest.mark.parametrize("bad", [0.0, -1.0, torch.nan, torch.inf])
def test_a_temperature_of_logits_that_is_none(bad, impl, device):
    """Named where a loss token has it, never read where none has."""
    temperature, mask = torch.tensor([1.0, bad, 2.0], device=device), torch.tensor([1, 0, 1], device=device)
    logits, target = torch.ones(3, 5, device=device), torch.zeros(3, dtype=torch.long, device=device)
    assert bool(logprob(logits, target, temperature=temperature, mask=mask, impl=impl).isfinite().all())
    with pytest.raises(ValueError, match=r"temperature\[1\]: got "):
        logprob(logits, target, temperature=temperature, impl=impl)
    with pytest.raises(ValueError, match=r"temperature: got shape \[3\], expected \[2\]"):
        logprob(logits[:2], target[:2], temperature=temperature, impl=impl)
