"""Sums over sequences within the one launch of the policy loss: a table with a slot for each sequence id.

Tokens of a sequence may lie anywhere, so programs add to slots with atomics, in 64-bit fixed point: integers give the
same sum in any order, which floats do not. The grid waits between filling a column and reading it.
    size     int32   loss tokens
    summed   int64   log-ratios, 2^30 units a nat; at most 2^11 nats a token and 2^21 tokens: 62 bits and a sign
    largest  int32   the bits of the largest |advantage x weight|, from which the unit of the next column comes
    gain     int64   advantage x weight of the tokens that move; 2^39 units a largest value, 2^21 tokens: 60 bits
"""

from __future__ import annotations

import triton
import triton.language as tl

from .token_math import clamp, keep_and_sequence, ratio_of, read, truncated_weight

MIN_SLOTS = 65536
MAX_TOKENS = 1 << 21
_UNITS = tl.constexpr(2.0**30)
_MAX_SUMMED = tl.constexpr(2.0**11)
_GAIN_BITS = tl.constexpr(39)


@triton.jit
def clear(size_ptr, summed_ptr, largest_ptr, gain_ptr, n_slots, BLOCK: tl.constexpr):
    """Zero this program's slots of every column (None: not wanted)."""
    for start in range(tl.program_id(0) * BLOCK, n_slots, tl.num_programs(0) * BLOCK):
        slot = start + tl.arange(0, BLOCK)
        tl.store(size_ptr + slot, 0, mask=slot < n_slots)
        if summed_ptr is not None:
            tl.store(summed_ptr + slot, 0, mask=slot < n_slots)
        if gain_ptr is not None:
            tl.store(largest_ptr + slot, 0, mask=slot < n_slots)
            tl.store(gain_ptr + slot, 0, mask=slot < n_slots)


@triton.jit
def _add(column_ptr, slot, value, keep, n_slots):
    """Add to slots: one atomic for a block within one sequence, the common case; else one a token."""
    low = tl.min(tl.where(keep, slot, n_slots))
    if low == tl.max(tl.where(keep, slot, -1)):
        tl.atomic_add(column_ptr + low, tl.sum(tl.where(keep, value, 0)), sem="relaxed")
    else:
        tl.atomic_add(column_ptr + slot, value, mask=keep, sem="relaxed")


@triton.jit
def _raise_to(column_ptr, slot, bits, keep, n_slots):
    """Raise slots to a maximum, likewise."""
    low = tl.min(tl.where(keep, slot, n_slots))
    if low == tl.max(tl.where(keep, slot, -1)):
        tl.atomic_max(column_ptr + low, tl.max(tl.where(keep, bits, 0)), sem="relaxed")
    else:
        tl.atomic_max(column_ptr + slot, bits, mask=keep, sem="relaxed")


@triton.jit
def _to_fixed(x):
    """Round float64 to the nearest int64; NaN to 0, since its own token makes the loss NaN."""
    return tl.floor(tl.where(x == x, x, 0.0) + 0.5).to(tl.int64)


@triton.jit
def _power_of_two(exponent):
    return ((exponent.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _gain_exponent(largest_ptr, slot, keep):
    """Return log2 of the units of a gain of 1. The largest gain is below 2^(its exponent field - 126)."""
    return -(tl.load(largest_ptr + slot, mask=keep, other=0) >> 23) + (_GAIN_BITS + 126)


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit
def fill(
    logp_ptr, old_ptr, advantage_ptr, sampler_ptr, sequence_ptr, mask_ptr, size_ptr, summed_ptr, largest_ptr,
    tokens, n_slots, tis_cap, OF_TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill the columns size, summed and largest (None: not wanted)."""
    for start in range(tl.program_id(0) * BLOCK, tokens, tl.num_programs(0) * BLOCK):
        token = start + tl.arange(0, BLOCK)
        keep, slot = keep_and_sequence(token, tokens, mask_ptr, sequence_ptr)  # pyright: ignore
        keep = keep & (slot < n_slots)
        _add(size_ptr, slot, keep.to(tl.int32), keep, n_slots)
        if summed_ptr is not None:
            old = read(old_ptr, token, keep)
            diff = clamp(read(logp_ptr, token, keep) - old, -_MAX_SUMMED, _MAX_SUMMED)
            _add(summed_ptr, slot, _to_fixed(diff.to(tl.float64) * _UNITS), keep, n_slots)
            if largest_ptr is not None:
                gain = read(advantage_ptr, token if OF_TOKENS else slot, keep)
                if sampler_ptr is not None:
                    gain *= truncated_weight(old, sampler_ptr, token, keep, tis_cap)
                # the bits of positive floats are ordered as the floats are
                _raise_to(largest_ptr, slot, tl.abs(gain).to(tl.int32, bitcast=True), keep, n_slots)


@triton.jit
def count_sequences(size_ptr, n_slots, BLOCK: tl.constexpr):
    """Count the sequences with a loss token among this program's slots."""
    count = 0
    for start in range(tl.program_id(0) * BLOCK, n_slots, tl.num_programs(0) * BLOCK):
        slot = start + tl.arange(0, BLOCK)
        count += tl.sum((tl.load(size_ptr + slot, mask=slot < n_slots, other=0) > 0).to(tl.int32))
    return count


@triton.jit
def mean_log_ratio(size_ptr, summed_ptr, slot, keep):
    """Return the mean log-ratio of each token's sequence."""
    size = tl.load(size_ptr + slot, mask=keep, other=1).to(tl.float64)
    return (tl.load(summed_ptr + slot, mask=keep, other=0).to(tl.float64) / (size * _UNITS)).to(tl.float32)


@triton.jit
def add_gain(largest_ptr, gain_ptr, slot, gain, keep, n_slots):
    """Add the tokens' gains to the column gain."""
    units = _power_of_two(_gain_exponent(largest_ptr, slot, keep))
    _add(gain_ptr, slot, _to_fixed(gain.to(tl.float64) * units), keep, n_slots)


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit
def spread_gains(
    sequence_ptr, mask_ptr, gradient_ptr, size_ptr, summed_ptr, largest_ptr, gain_ptr, tokens, n_slots,
    MEAN_OF_SEQUENCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add -r sum(gain) / size to the gradient: every token moves the ratio of all of its sequence."""
    for start in range(tl.program_id(0) * BLOCK, tokens, tl.num_programs(0) * BLOCK):
        token = start + tl.arange(0, BLOCK)
        keep, slot = keep_and_sequence(token, tokens, mask_ptr, sequence_ptr)  # pyright: ignore
        keep = keep & (slot < n_slots)
        size = tl.load(size_ptr + slot, mask=keep, other=1).to(tl.float64)
        ratio = ratio_of(mean_log_ratio(size_ptr, summed_ptr, slot, keep)).to(tl.float64)
        one = _power_of_two(-_gain_exponent(largest_ptr, slot, keep))
        gain = tl.load(gain_ptr + slot, mask=keep, other=0).to(tl.float64) * one
        slope = -ratio * gain / (size * size if MEAN_OF_SEQUENCE else size)
        own = tl.load(gradient_ptr + token, mask=keep, other=0.0)
        tl.store(gradient_ptr + token, (own + slope).to(tl.float32), mask=keep)
