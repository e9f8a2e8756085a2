"""Device-side synchronisation of a launch of many programs that end as one result: a barrier, and who came last.

Two int32 counters in device memory, zero before and after every launch: [0] arrivals at barriers, [1] programs done.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

MAX_PROGRAMS = 512  # partial results that the last program reads at once; twice the multiprocessors of an H100 is 264


@triton.jit
def grid_barrier(counters_ptr, arrivals):
    """Wait until `arrivals` (the number of programs times the barriers so far) have come.

    Launch it cooperatively: with programs that wait for their turn on the chip it would never end.
    """
    tl.debug_barrier()  # all warps' writes come before the one arrival
    tl.atomic_add(counters_ptr, 1, sem="acq_rel")
    while tl.atomic_add(counters_ptr, 0, sem="acquire") < arrivals:
        pass
    tl.debug_barrier()


@triton.jit
def is_last(counters_ptr):
    """Return True in the program that finishes last, which sees all others' writes and zeroes both counters."""
    tl.debug_barrier()
    last = tl.atomic_add(counters_ptr + 1, 1, sem="acq_rel") == tl.num_programs(0) - 1
    if last:
        tl.store(counters_ptr, 0)
        tl.store(counters_ptr + 1, 0)
    return last


def count_programs(device: torch.device, blocks: int, waits: bool) -> int:
    """Return one program for each multiprocessor where the grid waits, else at most two.

    Waiting programs must run all at once, whatever registers they take. The interpreter runs programs one after the
    other: it may have several only where none waits for a later one.
    """
    if device.type != "cuda":
        return 1 if waits else min(max(blocks, 1), 3)
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(blocks, multiprocessors if waits else 2 * multiprocessors, MAX_PROGRAMS))


def counters(device: torch.device) -> torch.Tensor:
    """Return the two counters: one pair for each stream, since launches of two streams may overlap.

    A CUDA graph under capture gets its own, which every replay zeroes.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(2, dtype=torch.int32, device=device)
    return _counters_of(device, torch.cuda.current_stream(device).cuda_stream)


@functools.cache
def _counters_of(device: torch.device, stream: int) -> torch.Tensor:
    return torch.zeros(2, dtype=torch.int32, device=device)
