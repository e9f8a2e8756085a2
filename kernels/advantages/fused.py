"""Group advantages in one Triton launch.

All pairs: a program takes ROWS trajectories and compares their group ids with all N, COLS at a time, so that groups
of any size lie in any order without a sort, a table or a second launch, and every sum is float64 in a fixed order.
N^2 compares and additions: 2 N^2 float64 additions with scale "group" (16.8 million pairs at N = 4096: about 5 us of
an H100's float64 rate, 34 TFLOP/s without tensor cores, if nothing else counted); above some 16,000 trajectories a
sort would win.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arguments import compute_dtype
from ..cards import card_of
from ..grid import count_programs, counters, grid_barrier, is_last

ROWS, COLS, BLOCK, WARPS = 16, 64, 1024, 4


@triton.jit
def _batch_std(reward_ptr, n, WIDE: tl.constexpr):
    """Return the population std of all N rewards; exactly 0 where all are equal."""
    column = tl.arange(0, WIDE)
    first = tl.load(reward_ptr).to(tl.float64)
    total = tl.zeros([WIDE], tl.float64)
    differs = tl.zeros([WIDE], tl.int32)
    for start in range(0, n, WIDE):
        inside = start + column < n
        r = tl.load(reward_ptr + start + column, mask=inside, other=0.0).to(tl.float64)
        total += r
        differs |= (inside & (r != first)).to(tl.int32)
    mean = tl.sum(total) / n
    square = tl.zeros([WIDE], tl.float64)
    for start in range(0, n, WIDE):
        inside = start + column < n
        r = tl.load(reward_ptr + start + column, mask=inside, other=0.0).to(tl.float64)
        square += tl.where(inside, (r - mean) * (r - mean), 0.0)
    return tl.where(tl.max(differs) > 0, tl.sqrt(tl.sum(square) / n), 0.0)


@triton.jit
def _to_sample_std(n):
    """Return what makes a population std over n numbers one with the divisor n - 1."""
    return tl.sqrt(n.to(tl.float64) / tl.maximum(n.to(tl.float64) - 1.0, 1.0))


# More than 6 parameters: Triton passes pointers, sizes and constants one by one.
@triton.jit
def _group_sums(reward_ptr, group_ptr, own_group, own_reward, n, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Return, for each row's group, its size, its sum and whether two rewards differ."""
    column = tl.arange(0, COLS)
    size = tl.zeros([ROWS, COLS], tl.int32)
    total = tl.zeros([ROWS, COLS], tl.float64)
    differs = tl.zeros([ROWS, COLS], tl.int32)
    for start in range(0, n, COLS):
        inside = start + column < n
        r = tl.load(reward_ptr + start + column, mask=inside, other=0.0).to(tl.float64)[None, :]
        group = tl.load(group_ptr + start + column, mask=inside, other=0)[None, :]
        same = (group == own_group[:, None]) & inside[None, :]
        size += same.to(tl.int32)
        total += tl.where(same, r, 0.0)
        differs |= (same & (r != own_reward[:, None])).to(tl.int32)
    return tl.sum(size, 1).to(tl.float64), tl.sum(total, 1), tl.max(differs, 1)


# More than 6 parameters: as above.
@triton.jit
def _group_std(reward_ptr, group_ptr, own_group, size, mean, n, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Return the population std of each row's group, from centred sums."""
    column = tl.arange(0, COLS)
    square = tl.zeros([ROWS, COLS], tl.float64)
    for start in range(0, n, COLS):
        inside = start + column < n
        r = tl.load(reward_ptr + start + column, mask=inside, other=0.0).to(tl.float64)[None, :]
        group = tl.load(group_ptr + start + column, mask=inside, other=0)[None, :]
        centred = r - mean[:, None]
        square += tl.where((group == own_group[:, None]) & inside[None, :], centred * centred, 0.0)
    return tl.sqrt(tl.sum(square, 1) / size)


# More than 6 parameters: as above.
@triton.jit(do_not_specialize=["n", "tokens"])
def advantage_kernel(
    reward_ptr,
    group_ptr,
    sequence_ptr,  # None: no tokens
    advantage_ptr,
    token_advantage_ptr,
    first_bad_ptr,
    counters_ptr,
    n,
    tokens,
    EPS: tl.constexpr,  # a constant, because an argument would be rounded to float32
    BASELINE: tl.constexpr,
    SCALE: tl.constexpr,
    SAMPLE_STD: tl.constexpr,
    KEEP_SINGLETONS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the advantages [n], those of tokens [tokens], and first_bad_ptr [programs, 2]: the first reward that is not
    finite (else n) and the first bad sequence id (else tokens) among those that each program saw."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    batch_std = 1.0
    if SCALE == "batch":
        batch_std = tl.full([], 0.0, tl.float64)
        if n > 0:
            batch_std = _batch_std(reward_ptr, n, 4 * COLS)
            if SAMPLE_STD:
                batch_std *= _to_sample_std(n)
    bad_reward = n
    for start in range(program * ROWS, n, programs * ROWS):
        row = start + tl.arange(0, ROWS)
        r = tl.load(reward_ptr + row, mask=row < n, other=0.0).to(tl.float64)
        bad_reward = tl.minimum(bad_reward, tl.min(tl.where((row < n) & ~(tl.abs(r) < float("inf")), row, n)))
        group = tl.load(group_ptr + row, mask=row < n, other=0)
        size, total, differs = _group_sums(reward_ptr, group_ptr, group, r, n, ROWS, COLS)
        size = tl.maximum(size, 1.0)  # rows beyond n may have an empty group
        mean = total / size
        advantage = r
        if BASELINE != "none":
            advantage = tl.where(differs > 0, r - mean, 0.0)
        if BASELINE == "leave_one_out":
            advantage = advantage * size / tl.maximum(size - 1.0, 1.0)
        if KEEP_SINGLETONS:
            advantage = tl.where(size == 1.0, r, advantage)
        if SCALE == "group":
            std = tl.where(differs > 0, _group_std(reward_ptr, group_ptr, group, size, mean, n, ROWS, COLS), 0.0)
            if SAMPLE_STD:
                std *= _to_sample_std(size)
            if KEEP_SINGLETONS:
                std = tl.where(size == 1.0, 1.0, std)
            advantage = tl.where(std > 0, advantage / (std + EPS), 0.0)
        elif SCALE == "batch":
            advantage = tl.where(batch_std > 0, advantage / (batch_std + EPS), 0.0)
        tl.store(advantage_ptr + row, advantage.to(advantage_ptr.dtype.element_ty), mask=row < n)
    bad_token = tokens
    if sequence_ptr is not None:
        grid_barrier(counters_ptr, programs)
        for start in range(program * BLOCK, tokens, programs * BLOCK):
            token = start + tl.arange(0, BLOCK)
            sequence = tl.load(sequence_ptr + token, mask=token < tokens, other=-1).to(tl.int64)
            good = (sequence >= -1) & (sequence < n)
            bad_token = tl.minimum(bad_token, tl.min(tl.where((token < tokens) & ~good, token, tokens)))
            advantage = tl.load(advantage_ptr + sequence, mask=good & (sequence >= 0), other=0.0)
            tl.store(token_advantage_ptr + token, advantage, mask=token < tokens)
        is_last(counters_ptr)
    tl.store(first_bad_ptr + 2 * program, bad_reward)
    tl.store(first_bad_ptr + 2 * program + 1, bad_token)


# More than 6 parameters: those of the reference.
def group_advantage(
    rewards_N: Tensor,
    group_ids_N: Tensor,
    *,
    baseline: str = "mean",
    scale: str = "group",
    eps: float = 1e-6,
    sample_std: bool = False,
    keep_singletons: bool = False,
    sequence_ids_T: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what the reference returns, and the kernel's `first_bad`: at least N and T where all values are good."""
    n, device = rewards_N.shape[0], rewards_N.device
    tokens = 0 if sequence_ids_T is None else sequence_ids_T.shape[0]
    blocks = max(-(-n // ROWS), -(-tokens // BLOCK))
    programs = count_programs(device, blocks, waits=sequence_ids_T is not None)
    advantage_N = torch.empty(n, dtype=compute_dtype(rewards_N), device=device)
    token_advantage_T = advantage_N if sequence_ids_T is None else advantage_N.new_empty(tokens)
    first_bad = torch.empty((programs, 2), dtype=torch.int32, device=device)
    launch: Any = advantage_kernel[(programs,)]
    launch(
        rewards_N.contiguous(), group_ids_N.contiguous(),
        None if sequence_ids_T is None else sequence_ids_T.contiguous(),
        advantage_N, token_advantage_T, first_bad, counters(device), n, tokens,
        EPS=eps, BASELINE=baseline, SCALE=scale, SAMPLE_STD=sample_std, KEEP_SINGLETONS=keep_singletons,
        ROWS=ROWS, COLS=COLS, BLOCK=BLOCK, launch_cooperative_grid=sequence_ids_T is not None,
        **card_of(device).options(WARPS),
    )  # fmt: skip
    return token_advantage_T, first_bad
