"""Comparing per-token objectives, values and gradients, with rules in Python floats."""

import pytest
import torch

from tests.support.kernels.policy_cases import batch


def masked_batch():
    """Return a batch whose masked tokens hold NaN, and whose padding is masked."""
    made = batch()
    made["mask_T"] &= made["sequence_ids_T"] >= 0
    for name in ("logp_T", "old_logp_T", "ref_logp_T", "advantage"):
        made[name] = made[name].masked_fill(~made["mask_T"], torch.nan)
    return made


def check(function, b, expected, *names, **options):
    """Compare values of loss tokens, and the gradient of their sum with weights 1, 2, 3, ..., with those expected."""
    leaf, mask = b["logp_T"].clone().requires_grad_(), b["mask_T"]
    got = function(leaf, *(b[name] for name in names), mask_T=mask, **options)
    weights = torch.arange(1.0, 61.0, dtype=torch.float64)
    (got * weights).sum().backward()
    values, gradient = expected(weights.tolist())
    assert got.tolist() == pytest.approx(values, rel=1e-12, abs=1e-14)
    assert leaf.grad.tolist() == pytest.approx(gradient, rel=1e-12, abs=1e-14)
    assert max(map(abs, gradient)) > 0.1 and got.dtype == torch.float64


def by_token(b, rule, *names):
    """Return `expected` of a rule (logp, *others) -> (value, slope) of one loss token."""

    def expected(weights):
        columns = [b[name].tolist() for name in ("logp_T", *names)]
        rows = [
            rule(*row) if keep else (0.0, 0.0)
            for *row, keep in zip(*columns, b["mask_T"].tolist(), strict=True)
        ]  # fmt: skip
        return [value for value, _ in rows], [slope * w for (_, slope), w in zip(rows, weights, strict=True)]

    return expected
