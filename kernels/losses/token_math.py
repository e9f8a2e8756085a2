"""The policy losses of single tokens, for the Triton kernel: float32 in, float32 out, NaN stays NaN.

exp and exp(x) - 1 - x are our own polynomials. The hardware's exp is off by |x| roundings, up to 1e-6 of a ratio; near
0 exp(x) - 1 - x would lose every digit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .reference import MAX_LOG_RATIO

_MAX = tl.constexpr(MAX_LOG_RATIO)


@triton.jit
def clamp(x, low, high):
    """Clamp as torch.clamp does: tl.minimum and tl.maximum would drop NaN."""
    return tl.where(x == x, tl.minimum(tl.maximum(x, low), high), x)


@triton.jit
def _small_k3(x):
    """Return exp(x) - 1 - x for |x| <= 1/2: its Taylor series to x^9, of which the next term is 1e-9 at most."""
    tail = 1.0 / 720 + x * (1.0 / 5040 + x * (1.0 / 40320 + x * (1.0 / 362880)))
    return x * x * (0.5 + x * (1.0 / 6 + x * (1.0 / 24 + x * (1.0 / 120 + x * tail))))


@triton.jit
def _exp(x):
    """Return exp(x) for |x| <= 20: 2^n exp(r) with |r| <= ln(2) / 2. ln(2) is taken off n times in two steps:
    0.693359375 has 10 significant bits, so that its product with n is exact."""
    n = tl.floor(x * 1.4426950408889634 + 0.5)
    r = (x - n * 0.693359375) + n * 2.12194440e-4
    power = ((tl.where(x == x, n, 0.0).to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return (1.0 + (r + _small_k3(r))) * power


@triton.jit
def ratio_of(log_ratio):
    """Return exp of the clamped log-ratio."""
    return _exp(clamp(log_ratio, -_MAX, _MAX))


@triton.jit
def is_beyond(log_ratio):
    """Return where the clamp makes the ratio a constant."""
    return tl.abs(log_ratio) > _MAX


@triton.jit
def k3(log_ratio):
    """Return (exp(x) - 1 - x, exp(x) - 1) with x the clamped log-ratio."""
    x = clamp(log_ratio, -_MAX, _MAX)
    value = tl.where(tl.abs(x) < 0.5, _small_k3(x), _exp(x) - 1.0 - x)
    return value, value + x


@triton.jit
def kl_to_reference(d, KL: tl.constexpr):
    """Return the estimate of KL(new || reference) from d = logp - ref, and its slope by logp."""
    value, slope = d, d  # k1+; the slope also of k2 and k3+
    if KL == "k1":
        slope = tl.full(d.shape, 1.0, tl.float32)
    elif KL == "k2":
        value = 0.5 * d * d
    elif KL == "abs":
        value = tl.abs(d)
        slope = tl.where(d == 0.0, 0.0, tl.where(d > 0.0, 1.0, tl.where(d < 0.0, -1.0, d)))  # NaN stays
    elif KL == "k3":
        value, by_ref = k3(-d)  # pyright: ignore
        slope = tl.where(is_beyond(d), 0.0, -by_ref)
    elif KL == "k3+":
        value, _ = k3(-d)  # pyright: ignore
    return value, slope


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit
def surrogate(ratio, beyond, advantage, logp, clip_floor, clip_ceiling, dual_clip, KIND: tl.constexpr):
    """Return (loss, its slope by the log-ratio (cispo: by logp), whether the clipping replaced the ratio)."""
    clipped = clamp(ratio, clip_floor, clip_ceiling)
    plain = -ratio * advantage
    if KIND == "cispo":
        slope = -clipped * advantage
        loss = slope * logp
        was_clipped = clipped != ratio
    else:
        loss = tl.maximum(plain, -clipped * advantage)
        if dual_clip is not None:
            loss = tl.where(advantage < 0, tl.minimum(loss, -dual_clip * advantage), loss)
        loss = tl.where(plain == plain, loss, plain)
        was_clipped = (loss != plain) & (plain == plain)
        # d (-r A) / d log r is -r A itself
        slope = tl.where(was_clipped | beyond, 0.0, plain)
    return loss, slope, was_clipped


@triton.jit
def keep_and_sequence(token, tokens, mask_ptr, sequence_ptr):
    """Return which are loss tokens, and their sequence ids (0 without ids). Nothing else of other tokens is read."""
    keep = token < tokens
    if mask_ptr is not None:
        keep = keep & (tl.load(mask_ptr + token, mask=keep, other=0) != 0)
    sequence = tl.zeros_like(token).to(tl.int64)
    if sequence_ptr is not None:
        sequence = tl.load(sequence_ptr + token, mask=keep, other=-1).to(tl.int64)
        keep = keep & (sequence >= 0)
    return keep, sequence


@triton.jit
def read(ptr, index, keep):
    """Return float32 values, 0 where they are not kept."""
    return tl.load(ptr + index, mask=keep, other=0.0).to(tl.float32)


@triton.jit
def truncated_weight(old, sampler_ptr, token, keep, tis_cap):
    """Return min(exp(old - sampler), tis_cap)."""
    weight = ratio_of(old - read(sampler_ptr, token, keep))
    return tl.where(weight == weight, tl.minimum(weight, tis_cap), weight)
