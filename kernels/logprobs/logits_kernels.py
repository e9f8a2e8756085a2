"""Triton kernels of `logprob`: each logit is read once forward, and read and written once backward."""

from __future__ import annotations

import triton
import triton.language as tl

from .head_kernels import scaled

# 8 KiB of bfloat16 a step: 32 bytes in flight for each of 256 threads, with several programs on a multiprocessor.
BLOCK = 4096
WARPS = 8

_LOG2E = tl.constexpr(1.4426950408889634)
_NOWHERE = tl.constexpr(-1e30)  # in place of -inf, so that differences stay numbers


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit(do_not_specialize=("T",))
def statistics_kernel(
    logits_ptr, target_ptr, temperature_ptr, statistics_ptr, T, V, stride, inverse_temperature, softcap,
    SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store max z, sum e, z[target] and sum e (z - max) in statistics_ptr [4, T]; one row a program, online.

    A target of -1 marks a row to skip, one of V a target of another rank, whose logit counts as 0. temperature_ptr [T]
    divides by a temperature of each row's own besides; None: there is none. The maximum is one number for the block and
    the sums are kept per lane, so that a logit costs one exponential and the lanes are added up once.
    """
    t = tl.program_id(0)
    target = tl.load(target_ptr + t)
    if target >= 0:
        if temperature_ptr is not None:
            inverse_temperature = inverse_temperature / tl.load(temperature_ptr + t)
        row = logits_ptr + t.to(tl.int64) * stride
        top = -float("inf")
        mass = tl.zeros((BLOCK,), tl.float32)
        weighted = tl.zeros((BLOCK,), tl.float32)
        for v0 in range(0, V, BLOCK):
            at = v0 + tl.arange(0, BLOCK)
            x = tl.load(row + at, mask=at < V, other=-float("inf")).to(tl.float32)
            z, _ = scaled(x, inverse_temperature, softcap, SOFTCAP)
            z = tl.where(x == -float("inf"), _NOWHERE, z)
            new = tl.maximum(top, tl.max(z, 0))
            factor = tl.exp2((top - new) * _LOG2E)
            below = z - new
            e = tl.exp2(below * _LOG2E)
            if ENTROPY:
                drop = tl.where(top == -float("inf"), 0.0, top - new)
                weighted = factor * (weighted + drop * mass) + e * below
            mass = factor * mass + e
            top = new
        x = tl.load(row + target, mask=target < V, other=0.0).to(tl.float32)
        z, _ = scaled(x, inverse_temperature, softcap, SOFTCAP)
        tl.store(statistics_ptr + t, top)
        tl.store(statistics_ptr + T + t, tl.sum(mass, 0))
        tl.store(statistics_ptr + 2 * T + t, z)
        if ENTROPY:
            tl.store(statistics_ptr + 3 * T + t, tl.sum(weighted, 0))


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit(do_not_specialize=("T",))
def gradient_kernel(
    logits_ptr, target_ptr, temperature_ptr, rows_ptr, out_ptr, T, V, stride, out_stride, inverse_temperature, softcap,
    SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store d(g logp + k entropy)/dx in out_ptr [T, V], which may be the logits; rows_ptr [4, T]: lse, entropy, g, k.

    Rows with a target of -1 get 0; the rest as in `statistics_kernel`.
    """
    blocks = tl.cdiv(V, BLOCK)
    t = tl.program_id(0) // blocks
    at = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    target = tl.load(target_ptr + t)
    where = out_ptr + t.to(tl.int64) * out_stride + at
    if target >= 0:
        if temperature_ptr is not None:
            inverse_temperature = inverse_temperature / tl.load(temperature_ptr + t)
        source = logits_ptr + t.to(tl.int64) * stride + at
        x = tl.load(source, mask=at < V, other=-float("inf")).to(tl.float32)
        z, slope = scaled(x, inverse_temperature, softcap, SOFTCAP)
        log_p = tl.where(x == -float("inf"), _NOWHERE, z - tl.load(rows_ptr + t))
        g = tl.load(rows_ptr + 2 * T + t)
        pull = tl.full((BLOCK,), 0.0, tl.float32) + g
        if ENTROPY:
            pull += tl.load(rows_ptr + 3 * T + t) * (log_p + tl.load(rows_ptr + T + t))
        made = (tl.where(at == target, g, 0.0) - tl.exp2(log_p * _LOG2E) * pull) * slope * inverse_temperature
        tl.store(where, made.to(out_ptr.dtype.element_ty), mask=at < V)
    else:
        tl.store(where, tl.zeros((BLOCK,), tl.float32).to(out_ptr.dtype.element_ty), mask=at < V)
