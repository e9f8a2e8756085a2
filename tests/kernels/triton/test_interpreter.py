"""The patched interpreter computes bfloat16 as torch does; unpatched, every one of these fails."""

import torch
import triton
import triton.language as tl

from tests.support.kernels.triton_interpreter import DEVICE


@triton.jit
def _bfloat16_kernel(a_ptr, b_ptr, product_ptr, sum_ptr, rounded_ptr, N: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    a, b = tl.load(a_ptr + at), tl.load(b_ptr + at)
    tl.store(product_ptr + at, tl.dot(a, b))
    tl.store(sum_ptr + at, a + b)
    tl.store(rounded_ptr + at, (a.to(tl.float32) * 1.01).to(tl.bfloat16))


def test_products_sums_and_casts_of_bfloat16():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(16, 16, generator=g).bfloat16().to(DEVICE) for _ in range(2))
    product = torch.empty(16, 16, device=DEVICE)
    total, rounded = torch.empty_like(a), torch.empty_like(a)
    _bfloat16_kernel[(1,)](a, b, product, total, rounded, 16)
    torch.testing.assert_close(product, a.float() @ b.float(), rtol=0, atol=16 * 2**-24 * 16)
    assert torch.equal(total, a + b)
    assert torch.equal(rounded, (a.float() * 1.01).bfloat16())
