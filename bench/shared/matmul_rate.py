"""The rate of one large matrix product: what a benchmark's FLOP/s are compared with."""

from __future__ import annotations

import torch

from bench.shared.part_clock import seconds_of

REPEATS = 10


def matmul_flops_per_s(device: str, dtype: torch.dtype) -> float:
    """Return the FLOP/s of one large matrix product on this device, the best of ten."""
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / min(seconds_of(lambda: a @ b, device) for _ in range(REPEATS))
