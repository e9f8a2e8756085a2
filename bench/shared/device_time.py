"""The time that work on a device takes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from aslfast.clock import Seconds, now


def now_on(device: str) -> Callable[[], Seconds]:
    """Return a clock. On a GPU it waits for the work launched so far, since kernels return before they have run."""

    def waiting() -> Seconds:
        torch.cuda.synchronize()
        return now()

    return waiting if device == "cuda" else now


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Return the seconds that a call takes: see `Seconds.on`."""
    clock = now_on(device)
    before = clock()
    run()
    return clock().since(before).on(device)
