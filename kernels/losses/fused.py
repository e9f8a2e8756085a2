"""The policy losses, their gradient and their metrics in one Triton launch.

Tokens are read once, BLOCK at a time. Every program leaves its partial sums, and the last to finish adds them in the
order of the programs, so that the same call gives the same bits. Ratios and means of sequences need sums over tokens
that lie anywhere (sequence_table): these take one round over the tokens more, a sequence ratio's gradient another,
and between rounds the grid waits. Losses and gradients are float32, sums float64.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cards import card_of
from ..grid import MAX_PROGRAMS, count_programs, counters, grid_barrier, is_last
from . import sequence_table
from .reference import PolicyResult
from .sequence_table import add_gain, clear, count_sequences, fill, mean_log_ratio, spread_gains
from .token_math import is_beyond, k3, keep_and_sequence, kl_to_reference, ratio_of, read, surrogate, truncated_weight

BLOCK, WARPS = 1024, 8  # 4 tokens a thread: with 8 the largest variant spills
PARTIALS = 8


@triton.jit
def _column(partial_ptr, index, other, PARTIALS: tl.constexpr, MAX_PROGRAMS: tl.constexpr):
    """Return one partial sum of every program, `other` beyond them."""
    row = tl.arange(0, MAX_PROGRAMS)
    return tl.load(partial_ptr + row * PARTIALS + index, mask=row < tl.num_programs(0), other=other)


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit
def _reduce(
    partial_ptr, normalizer_ptr, loss_ptr, divisor_ptr, metrics_ptr, tokens_ptr, normalizer,
    OF_SEQUENCES: tl.constexpr, PARTIALS: tl.constexpr, MAX_PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Reduce the partial sums of all programs to the scalars."""
    count = tl.sum(_column(partial_ptr, 0, 0.0, PARTIALS, MAX_PROGRAMS))
    if normalizer_ptr is not None:
        divisor = tl.load(normalizer_ptr).to(tl.float64)
    elif normalizer is not None:
        divisor = tl.full([], 0.0, tl.float64) + normalizer
    elif OF_SEQUENCES:
        divisor = tl.maximum(tl.sum(_column(partial_ptr, 1, 0.0, PARTIALS, MAX_PROGRAMS)), 1.0)
    else:
        divisor = tl.maximum(count, 1.0)
    loss = tl.sum(_column(partial_ptr, 2, 0.0, PARTIALS, MAX_PROGRAMS)) / divisor
    tl.store(loss_ptr, loss.to(tl.float32))
    tl.store(divisor_ptr, divisor.to(tl.float32))
    tl.store(tokens_ptr, count.to(tl.int64))
    at_least_one = tl.maximum(count, 1.0)
    clipped = tl.sum(_column(partial_ptr, 3, 0.0, PARTIALS, MAX_PROGRAMS))
    approx_kl = tl.sum(_column(partial_ptr, 4, 0.0, PARTIALS, MAX_PROGRAMS))
    ratio_min = tl.min(_column(partial_ptr, 5, float("inf"), PARTIALS, MAX_PROGRAMS))
    ratio_max = tl.max(_column(partial_ptr, 6, 0.0, PARTIALS, MAX_PROGRAMS))
    kl_ref = tl.sum(_column(partial_ptr, 7, 0.0, PARTIALS, MAX_PROGRAMS))
    tl.store(metrics_ptr, (clipped / at_least_one).to(tl.float32))
    tl.store(metrics_ptr + 1, (approx_kl / at_least_one).to(tl.float32))
    tl.store(metrics_ptr + 2, tl.where(count > 0, ratio_min, 1.0).to(tl.float32))
    tl.store(metrics_ptr + 3, tl.where(count > 0, ratio_max, 1.0).to(tl.float32))
    tl.store(metrics_ptr + 4, (kl_ref / at_least_one).to(tl.float32))


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit(do_not_specialize=["tokens", "n_slots"])
def policy_loss_kernel(
    logp_ptr, old_ptr, advantage_ptr, ref_ptr, sampler_ptr, sequence_ptr, mask_ptr, normalizer_ptr,
    gradient_ptr, loss_ptr, divisor_ptr, metrics_ptr, tokens_ptr,
    size_ptr, summed_ptr, largest_ptr, gain_ptr, partial_ptr, counters_ptr,
    tokens, n_slots, clip_floor, clip_ceiling, dual_clip, kl_coef, tis_cap, normalizer,
    OF_TOKENS: tl.constexpr, MEAN_OF_SEQUENCE: tl.constexpr, KIND: tl.constexpr, KL: tl.constexpr,
    BLOCK: tl.constexpr, PARTIALS: tl.constexpr, MAX_PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Store the loss, its divisor, the metrics, the number of loss tokens, and d loss / d logp times the divisor.

    Tensors and numbers that a call has no use for are None, those of the table too: size_ptr without sequences,
    summed_ptr without sequence ratios, largest_ptr and gain_ptr where no gradient needs them. OF_TOKENS: the advantage
    is per token. n_slots bounds the sequence ids; one beyond it makes the loss NaN.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    n_loss_tokens, n_sequences, n_clipped = 0, 0, 0
    loss_sum = tl.full([], 0.0, tl.float64)
    approx_kl = tl.full([], 0.0, tl.float64)
    kl_ref = tl.full([], 0.0, tl.float64)
    ratio_min, ratio_max = float("inf"), 0.0
    if size_ptr is not None:
        clear(size_ptr, summed_ptr, largest_ptr, gain_ptr, n_slots, BLOCK)
        grid_barrier(counters_ptr, programs)
        fill(
            logp_ptr, old_ptr, advantage_ptr, sampler_ptr, sequence_ptr, mask_ptr, size_ptr, summed_ptr, largest_ptr,
            tokens, n_slots, tis_cap, OF_TOKENS, BLOCK,
        )  # fmt: skip
        grid_barrier(counters_ptr, 2 * programs)
        if MEAN_OF_SEQUENCE:
            n_sequences = count_sequences(size_ptr, n_slots, BLOCK)
    for start in range(program * BLOCK, tokens, programs * BLOCK):
        token = start + tl.arange(0, BLOCK)
        keep, slot = keep_and_sequence(token, tokens, mask_ptr, sequence_ptr)  # pyright: ignore
        known = keep
        if size_ptr is not None or not OF_TOKENS:
            known = keep & (slot < n_slots)
        n_loss_tokens += tl.sum(keep.to(tl.int32))
        logp, old = read(logp_ptr, token, keep), read(old_ptr, token, keep)
        advantage = read(advantage_ptr, token if OF_TOKENS else slot, known)
        log_ratio = logp - old
        approx_kl += tl.sum(k3(log_ratio)[0].to(tl.float64))
        if summed_ptr is not None:
            mean = mean_log_ratio(size_ptr, summed_ptr, slot, known)
            log_ratio = tl.where(log_ratio == log_ratio, mean, log_ratio)
        ratio, beyond = ratio_of(log_ratio), is_beyond(log_ratio)
        ratio_min = tl.minimum(ratio_min, tl.min(tl.where(keep, ratio, float("inf"))))
        ratio_max = tl.maximum(ratio_max, tl.max(tl.where(keep, ratio, 0.0)))
        loss, slope, was_clipped = surrogate(ratio, beyond, advantage, logp, clip_floor, clip_ceiling, dual_clip, KIND)
        n_clipped += tl.sum((was_clipped & keep).to(tl.int32))
        gain = tl.where(was_clipped | beyond, 0.0, advantage)
        if sampler_ptr is not None:
            weight = truncated_weight(old, sampler_ptr, token, keep, tis_cap)
            loss, slope, gain = loss * weight, slope * weight, gain * weight
        if gain_ptr is not None:
            add_gain(largest_ptr, gain_ptr, slot, gain, known, n_slots)
            slope = tl.zeros_like(slope)
        if ref_ptr is not None:
            kl, kl_slope = kl_to_reference(logp - read(ref_ptr, token, keep), KL)
            kl_ref += tl.sum(kl.to(tl.float64))
            loss += kl_coef * kl
            slope += kl_coef * kl_slope
        if MEAN_OF_SEQUENCE:
            size = tl.load(size_ptr + slot, mask=known, other=1).to(tl.float32)
            loss, slope = loss / size, slope / size
        loss = tl.where(known, loss, float("nan"))
        loss_sum += tl.sum(tl.where(keep, loss, 0.0).to(tl.float64))
        tl.store(gradient_ptr + token, tl.where(keep, slope, 0.0), mask=token < tokens)
    if gain_ptr is not None:
        grid_barrier(counters_ptr, 3 * programs)
        spread_gains(
            sequence_ptr, mask_ptr, gradient_ptr, size_ptr, summed_ptr, largest_ptr, gain_ptr, tokens, n_slots,
            MEAN_OF_SEQUENCE, BLOCK,
        )  # fmt: skip
    mine = partial_ptr + program * PARTIALS
    tl.store(mine, n_loss_tokens + 0.0)
    tl.store(mine + 1, n_sequences + 0.0)
    tl.store(mine + 2, loss_sum)
    tl.store(mine + 3, n_clipped + 0.0)
    tl.store(mine + 4, approx_kl)
    tl.store(mine + 5, ratio_min)
    tl.store(mine + 6, ratio_max)
    tl.store(mine + 7, kl_ref)
    if is_last(counters_ptr):
        _reduce(
            partial_ptr, normalizer_ptr, loss_ptr, divisor_ptr, metrics_ptr, tokens_ptr, normalizer,
            MEAN_OF_SEQUENCE, PARTIALS, MAX_PROGRAMS,
        )  # fmt: skip


@triton.jit(do_not_specialize=["tokens"])
def policy_loss_backward_kernel(gradient_ptr, upstream_ptr, divisor_ptr, out_ptr, tokens, BLOCK: tl.constexpr):
    """Store gradient_ptr [tokens] times upstream / divisor in out_ptr."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    factor = tl.load(upstream_ptr).to(tl.float32) / tl.load(divisor_ptr)
    gradient = tl.load(gradient_ptr + token, mask=token < tokens, other=0.0) * factor
    tl.store(out_ptr + token, gradient.to(out_ptr.dtype.element_ty), mask=token < tokens)


# More than 6 parameters: those of the reference.
def policy_loss(
    logp_T: Tensor,
    old_logp_T: Tensor,
    advantage: Tensor,
    *,
    sequence_ids_T: Tensor | None = None,
    mask_T: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    ref_logp_T: Tensor | None = None,
    kl_coef: float = 0.0,
    kl_kind: str = "k3",
    ratio_level: str = "token",
    kind: str = "ppo",
    sampler_logp_T: Tensor | None = None,
    tis_cap: float | None = None,
    aggregate: str = "token_mean",
    normalizer: float | Tensor | None = None,
    advantage_level: str = "token",
) -> PolicyResult:
    """Return what the reference returns. Raises ValueError for too many tokens."""
    tokens, device = logp_T.shape[0], logp_T.device
    if tokens > sequence_table.MAX_TOKENS:
        most = sequence_table.MAX_TOKENS
        raise ValueError(f'logp_T: got {tokens} tokens, the kernel takes {most}; split them or use "torch"')
    ratios, means = ratio_level != "token", aggregate == "sequence_mean"
    spreads = ratio_level == "sequence" and kind == "ppo"
    n_slots = max(tokens, sequence_table.MIN_SLOTS) if advantage_level == "token" else advantage.shape[0]
    programs = count_programs(device, -(-tokens // BLOCK), waits=ratios or means)
    result = _empty_result(tokens, device)
    launch: Any = policy_loss_kernel[(programs,)]
    launch(
        *map(_flat, (logp_T, old_logp_T, advantage, ref_logp_T, sampler_logp_T, sequence_ids_T)),
        None if mask_T is None else mask_T.contiguous().view(torch.uint8),
        normalizer if isinstance(normalizer, Tensor) else None,
        result.gradient_T, result.loss, result.normalizer, result.metrics_M, result.tokens,
        *_table_columns(n_slots, device, size=ratios or means, summed=ratios, gain=spreads),
        torch.empty((programs, PARTIALS), dtype=torch.float64, device=device), counters(device),
        tokens, n_slots, 1.0 - clip_low, 1.0 + clip_high, dual_clip, float(kl_coef), tis_cap,
        None if normalizer is None or isinstance(normalizer, Tensor) else float(normalizer),
        OF_TOKENS=advantage_level == "token", MEAN_OF_SEQUENCE=means, KIND=kind, KL=kl_kind,
        BLOCK=BLOCK, PARTIALS=PARTIALS, MAX_PROGRAMS=MAX_PROGRAMS,
        launch_cooperative_grid=ratios or means, **card_of(device).options(WARPS),
    )  # fmt: skip
    return result


def _flat(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _empty_result(tokens: int, device: torch.device) -> PolicyResult:
    gradient_T = torch.empty(tokens, dtype=torch.float32, device=device)
    loss, divisor = (torch.empty((), dtype=torch.float32, device=device) for _ in range(2))
    metrics_M = torch.empty(5, dtype=torch.float32, device=device)
    return PolicyResult(loss, gradient_T, divisor, metrics_M, torch.empty((), dtype=torch.int64, device=device))


def _table_columns(n_slots: int, device: torch.device, *, size: bool, summed: bool, gain: bool) -> list[Tensor | None]:
    """Return the table's columns size, summed, largest and gain; None: not wanted."""
    wanted = (size, torch.int32), (summed, torch.int64), (gain, torch.int32), (gain, torch.int64)
    return [torch.empty(n_slots, dtype=dtype, device=device) if wants else None for wants, dtype in wanted]


def policy_loss_backward(gradient_T: Tensor, normalizer: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    """Return gradient_T upstream / normalizer [T] in `dtype`."""
    tokens = gradient_T.shape[0]
    out_T = torch.empty(tokens, dtype=dtype, device=gradient_T.device)
    if tokens:
        launch: Any = policy_loss_backward_kernel[(-(-tokens // BLOCK),)]
        launch(gradient_T, upstream, normalizer, out_T, tokens, BLOCK=BLOCK, **card_of(out_T.device).options(WARPS))
    return out_T
