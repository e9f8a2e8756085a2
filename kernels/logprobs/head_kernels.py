"""Triton kernels of `linear_logprob`: the head's product with its epilogues, the statistics' reduction, the residual's
coefficients. `head` launches them, `fused` states the design.

One token has raw logits x, z = softcap tanh(x / softcap) / temperature, p = softmax(z); suffixes as in the package.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Coefficients of a gradient are below about 8 (entropy) and stored times this power of two: float16 ends at 65504, and
# a probability below 6e-8 would be lost.
COEFFICIENT_SCALE = 2.0**12

_LOG2E = tl.constexpr(1.4426950408889634)
# z of the columns past V: p is 0 there, and 0 log p is 0, which with -inf it would not be.
_NOWHERE = tl.constexpr(-1e30)
_SCALE = tl.constexpr(COEFFICIENT_SCALE)

# A tile's epilogue runs over slices of BLOCK_V / 4 columns, each with statistics of its own: what a whole tile's needs
# at once does not fit into 255 registers a thread (halves of 256 columns spilled with a softcap).
SLICES = 4
# Token tiles that share one pass over the head: 16 x 128 rows of 3584 bfloat16 (14 MiB) stay in the 50 MiB L2 cache.
GROUP_T = 16
COEFFICIENT_ROWS = 64  # rows of a slice that one program turns into coefficients: 64 bytes a thread in flight
# Rows and slices of a reduction's step: with one slice a step, the latency of 2376 loads would take over a millisecond.
REDUCE = {"ROWS": 32, "BLOCK": 128}
REDUCE_WARPS, COEFFICIENT_WARPS = 8, 4


@triton.jit
def _tile_of(tile, tiles_t, tiles_v, GROUP_T: tl.constexpr):
    """Return the token and the vocabulary index of a tile. Within a group of token tiles the token index runs first,
    so that neighbours share the tile of the head."""
    group = tile // (GROUP_T * tiles_v)
    first = group * GROUP_T
    height = tl.minimum(tiles_t - first, GROUP_T)
    within = tile - group * GROUP_T * tiles_v
    return first + within % height, within // height


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit
def _load(source, row0, column0, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TMA: tl.constexpr):
    """Return a [ROWS, COLUMNS] tile, zero outside."""
    if TMA:
        tile = source.load([row0, column0])
    else:
        at_row = row0 + tl.arange(0, ROWS)
        at_column = column0 + tl.arange(0, COLUMNS)
        inside = (at_row < rows)[:, None] & (at_column < columns)[None, :]
        at = at_row.to(tl.int64)[:, None] * stride + at_column[None, :]
        tile = tl.load(source + at, mask=inside, other=0.0)
    return tile


@triton.jit
def bend(u):
    """Return tanh(u) and its derivative, both without cancellation: 4 e / (1 + e)^2 with e = exp(-2 |u|), and the odd
    series of tanh where (1 - e) / (1 + e) would lose digits (next term: 4e-8 of u at 0.3)."""
    square = u * u
    series = 2.0 / 15.0 + square * (-17.0 / 315.0 + square * (62.0 / 2835.0))
    series = u + u * square * (-1.0 / 3.0 + square * series)
    e = tl.exp2(tl.abs(u) * (-2.0 * _LOG2E))
    inverse = 1.0 / (1.0 + e)
    far = tl.where(u < 0.0, e - 1.0, 1.0 - e) * inverse
    return tl.where(tl.abs(u) < 0.3, series, far), 4.0 * e * inverse * inverse


@triton.jit
def scaled(x, inverse_temperature, softcap, SOFTCAP: tl.constexpr):
    """Return z, and dz/dx without the temperature."""
    slope = 1.0
    if SOFTCAP:
        x, slope = bend(x / softcap)  # pyright: ignore
        x *= softcap
    return x * inverse_temperature, slope


@triton.jit
def _halves(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the left and the right half; a thread holds values of all columns of its rows, so nothing moves."""
    return tl.split(tl.permute(tl.reshape(x, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))  # pyright: ignore


# More than 6 parameters: those of the kernel.
@triton.jit
def _finish(
    x, tile_t, tile_v, bias_ptr, target_ptr, rows_ptr, partial_ptr, logit_ptr, out, T, V, out_stride,
    inverse_temperature, softcap,
    OUTPUT: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr, TMA: tl.constexpr,
    BLOCK_T: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Store what `head_kernel` makes of [BLOCK_T, WIDTH] raw logits."""
    at_t, at_v = tile_t * BLOCK_T + tl.arange(0, BLOCK_T), tile_v * WIDTH + tl.arange(0, WIDTH)
    in_t, in_v = at_t < T, at_v < V
    target = tl.load(target_ptr + at_t, mask=in_t, other=-1).to(tl.int32)
    hit = at_v[None, :] == target[:, None]
    if BIAS:
        x += tl.load(bias_ptr + at_v, mask=in_v, other=0.0).to(tl.float32)[None, :]
    z, slope = scaled(x, inverse_temperature, softcap, SOFTCAP)  # pyright: ignore
    z = tl.where(in_v[None, :], z, _NOWHERE)
    if OUTPUT == "gradient":
        log_p = z - tl.load(rows_ptr + at_t, mask=in_t, other=0.0)[:, None]
        g = tl.load(rows_ptr + 2 * T + at_t, mask=in_t, other=0.0)[:, None]
        pull = g
        if ENTROPY:
            k = tl.load(rows_ptr + 3 * T + at_t, mask=in_t, other=0.0)[:, None]
            pull += k * (log_p + tl.load(rows_ptr + T + at_t, mask=in_t, other=0.0)[:, None])
        made = (tl.where(hit, g, 0.0) - tl.exp2(log_p * _LOG2E) * pull) * slope
    else:
        mine = (target >= tile_v * WIDTH) & (target < (tile_v + 1) * WIDTH)
        tl.store(logit_ptr + at_t, tl.sum(tl.where(hit, z, 0.0), 1), mask=in_t & mine)
        if OUTPUT == "residual" and SOFTCAP:
            tl.store(logit_ptr + T + at_t, tl.sum(tl.where(hit, slope, 0.0), 1), mask=in_t & mine)
        top = tl.max(z, 1)
        below = z - top[:, None]
        e = tl.exp2(below * _LOG2E)
        partial = partial_ptr + tile_v * T + at_t
        plane = tl.cdiv(V, WIDTH) * T
        tl.store(partial, top, mask=in_t)
        tl.store(partial + plane, tl.sum(e, 1), mask=in_t)
        if ENTROPY:
            tl.store(partial + 2 * plane, tl.sum(e * below, 1), mask=in_t)
        made = e * slope
    if OUTPUT != "statistics":
        if TMA:
            out.store([tile_t * BLOCK_T, tile_v * WIDTH], made.to(out.dtype))
        else:
            where = out + at_t[:, None] * out_stride + at_v[None, :]
            tl.store(where, made.to(out.dtype.element_ty), mask=in_t[:, None] & in_v[None, :])


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit(do_not_specialize=("T",))
def head_kernel(
    hidden, weight, bias_ptr, target_ptr, rows_ptr, partial_ptr, logit_ptr, out, T, V, D, hidden_stride, weight_stride,
    out_stride, inverse_temperature, softcap,
    OUTPUT: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr, TMA: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, GROUP_T: tl.constexpr,
):  # fmt: skip
    """Multiply tiles of hidden @ weight^T and use each up in registers; the logits are never stored.

    OUTPUT "statistics": partial_ptr [3, slices of V, T] gets max z, sum e, sum e (z - max) of each slice, with
                         e = exp(z - max), and logit_ptr [T] z[target]
           "residual":   the same, out [T, V] gets e dz/dx, and logit_ptr's second row dz/dx of the target (softcap)
           "gradient":   out [T, V] gets d(g logp + k entropy)/dx, with rows_ptr [4, T] = lse, entropy, g, k
    `hidden`, `weight`, `out`: TMA descriptors of their tiles, or pointers. Targets are 0..V-1, or -1 for none.
    """
    tiles_t, tiles_v = tl.cdiv(T, BLOCK_T), tl.cdiv(V, BLOCK_V)
    for tile in tl.range(tl.program_id(0), tiles_t * tiles_v, tl.num_programs(0)):
        tile_t, tile_v = _tile_of(tile, tiles_t, tiles_v, GROUP_T)
        x = tl.zeros((BLOCK_T, BLOCK_V), tl.float32)
        for d in range(tl.cdiv(D, BLOCK_D)):
            h = _load(hidden, tile_t * BLOCK_T, d * BLOCK_D, T, D, hidden_stride, BLOCK_T, BLOCK_D, TMA)
            w = _load(weight, tile_v * BLOCK_V, d * BLOCK_D, V, D, weight_stride, BLOCK_V, BLOCK_D, TMA)
            x = tl.dot(h, w.to(h.dtype).T, x, input_precision="ieee")  # no TF32: float32 products are exact to float32
        left, right = _halves(x, BLOCK_T, BLOCK_V)
        first, second = _halves(left, BLOCK_T, BLOCK_V // 2)
        third, fourth = _halves(right, BLOCK_T, BLOCK_V // 2)
        for i in tl.static_range(4):
            part = first if i == 0 else second if i == 1 else third if i == 2 else fourth
            if (4 * tile_v + i) * (BLOCK_V // 4) < V:
                _finish(
                    part, tile_t, 4 * tile_v + i, bias_ptr, target_ptr, rows_ptr, partial_ptr, logit_ptr, out, T, V,
                    out_stride, inverse_temperature, softcap, OUTPUT, BIAS, SOFTCAP, ENTROPY, TMA, BLOCK_T,
                    BLOCK_V // 4,
                )  # fmt: skip


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit(do_not_specialize=("T",))
def reduce_kernel(
    partial_ptr, statistics_ptr, T, slices, ENTROPY: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Reduce partial_ptr [3, slices, T] to statistics_ptr [3, T], as over one slice, by the online softmax's rule.

    A slice's weighted sum is moved to the new maximum: sum e (z - new) = sum e (z - old) + (old - new) sum e.
    """
    at_t, at_slice = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    in_t = at_t < T
    plane = slices * T
    top = tl.full((ROWS,), _NOWHERE, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    weighted = tl.zeros((ROWS,), tl.float32)
    for first in range(0, slices, BLOCK):
        source = partial_ptr + (first + at_slice)[:, None] * T + at_t[None, :]
        inside = (first + at_slice < slices)[:, None] & in_t[None, :]
        next_top = tl.load(source, mask=inside, other=_NOWHERE)
        next_total = tl.load(source + plane, mask=inside, other=0.0)
        new = tl.maximum(top, tl.max(next_top, 0))
        factor, next_factor = tl.exp2((top - new) * _LOG2E), tl.exp2((next_top - new[None, :]) * _LOG2E)
        if ENTROPY:
            next_weighted = tl.load(source + 2 * plane, mask=inside, other=0.0)
            moved = next_factor * (next_weighted + (next_top - new[None, :]) * next_total)
            weighted = factor * (weighted + (top - new) * total) + tl.sum(moved, 0)
        total = factor * total + tl.sum(next_factor * next_total, 0)
        top = new
    tl.store(statistics_ptr + at_t, top, mask=in_t)
    tl.store(statistics_ptr + T + at_t, total, mask=in_t)
    if ENTROPY:
        tl.store(statistics_ptr + 2 * T + at_t, weighted, mask=in_t)


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit(do_not_specialize=("T",))
def coefficient_kernel(
    out_ptr, partial_ptr, lse_ptr, logp_ptr, slope_ptr, target_ptr, T, V, out_stride,
    SOFTCAP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Turn e dz/dx of one slice into ([v = target] - p_v) dz/dx, times COEFFICIENT_SCALE, in place.

    Only e dz/dx was rounded to the buffer's dtype; its maximum and the target's own values come from float32.
    """
    at_t, slice_v = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    at_v = slice_v * WIDTH + tl.arange(0, WIDTH)
    in_t, in_v = at_t < T, at_v < V
    inside = in_t[:, None] & in_v[None, :]
    lse = tl.load(lse_ptr + at_t, mask=in_t, other=0.0)
    logp = tl.load(logp_ptr + at_t, mask=in_t, other=0.0)
    top = tl.load(partial_ptr + slice_v * T + at_t, mask=in_t, other=0.0)
    target = tl.load(target_ptr + at_t, mask=in_t, other=-1).to(tl.int32)
    own = 1.0 - tl.exp2(logp * _LOG2E)
    if SOFTCAP:
        own *= tl.load(slope_ptr + at_t, mask=in_t, other=0.0)
    where = out_ptr + at_t[:, None] * out_stride + at_v[None, :]
    e = tl.load(where, mask=inside, other=0.0).to(tl.float32)
    others = -e * tl.exp2((top - lse) * _LOG2E)[:, None]
    out = tl.where(at_v[None, :] == target[:, None], own[:, None], others) * _SCALE
    tl.store(where, out.to(out_ptr.dtype.element_ty), mask=inside)
