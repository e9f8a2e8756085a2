"""Log-probs and entropies from their definitions, in any precision, and how far a result may be from them."""

from typing import NamedTuple

import torch
from torch import Tensor

EPS32 = torch.finfo(torch.float32).eps
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SCALINGS = [(0.1, None), (1.0, None), (5.0, None), (0.7, 3.0)]


def naive(raw_TV, target_T, temperature, softcap):
    """Return log-prob and entropy from logits, from the definitions, differentiable, in the dtype of `raw_TV`."""
    z = raw_TV if softcap is None else softcap * (raw_TV / softcap).tanh()
    z = z / temperature
    top = z.max(dim=1, keepdim=True).values.detach()
    weights = (z - top).exp()
    total = weights.sum(dim=1, keepdim=True)
    log_p = z - top - total.log()
    rows = torch.arange(len(target_T))
    return log_p[rows, target_T], -(weights / total * log_p).sum(dim=1)


def problem(shape, dtype, shift=0.0, seed=0):
    tokens, width, vocabulary = shape
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=g).to(dtype)
    weight = (torch.randn(vocabulary, width, generator=g) * width**-0.5 * 2).to(dtype)
    bias = (torch.randn(vocabulary, generator=g) * 0.5 + shift).to(dtype)
    target = torch.randint(vocabulary, (tokens,), generator=g)
    upstream = torch.randn(2, tokens, generator=g)
    return hidden, weight, bias, target, upstream


class Case(NamedTuple):
    """One computation of log-probs and entropies, and the gradients that arrive at them."""

    inputs: list[Tensor]  # logits, or hidden states, head and bias
    target: Tensor
    upstream: Tensor  # [2, T]: of the log-probs and of the entropies
    mask: Tensor
    temperature: float = 1.0
    softcap: float | None = None


def run_naive(dtype, case):
    """Return values, gradients of the inputs and the largest scaled logit; masked tokens have weight 0."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in case.inputs]
    raw = leaves[0] if len(leaves) == 1 else leaves[0] @ leaves[1].T + leaves[2]
    keep = case.mask.to(dtype)
    values = [v * keep for v in naive(raw, case.target, case.temperature, case.softcap)]
    sum((v * u.to(dtype)).sum() for v, u in zip(values, case.upstream, strict=True)).backward()
    return values, [x.grad for x in leaves], float(raw.detach().abs().max()) / case.temperature


def assert_as_exact(got, exact, torch32, logit_size=0.0):
    error = (got.double() - exact).abs()
    own = float((torch32.double() - exact).abs().max()) if exact.numel() else 0.0
    size = max(float(exact.abs().max()), logit_size) if exact.numel() else 0.0
    # 1e-15: where a softcap saturates, float64 itself has no digit of 1 - tanh^2 below that.
    allowed = torch.full_like(error, 2 * own + 8 * EPS32 * size + 1e-15)
    if got.dtype in (torch.bfloat16, torch.float16):
        allowed += torch.finfo(got.dtype).eps * exact.abs() + torch.finfo(got.dtype).smallest_normal
    assert bool((error <= allowed).all()), f"error {float(error.max()):.3g}, allowed {float(allowed.max()):.3g}"
