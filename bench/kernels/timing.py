"""Times, peaks and launches of functions on the GPU, interleaved; on a CPU only to rehearse the benchmark."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Run = Callable[[], object]
Row = dict[str, Any]  # one line of the results, as JSON takes it
_FLUSH_BYTES = 256 << 20  # beyond any L2: what a run reads must come from memory


class Timer:
    """Times functions on one device, `repeats` times each."""

    def __init__(self, device: str, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        self.flush = torch.empty(_FLUSH_BYTES if device == "cuda" else 1, dtype=torch.int8, device=device)

    def milliseconds(self, run: Run) -> float:
        """Run once, with a cold cache, and return the time."""
        self.flush.zero_()
        if self.device != "cuda":
            start_s = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - start_s)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def compare(self, runs: dict[str, Run]) -> dict[str, Row]:
        """Return median, p20 and p80 ms and peak MiB by name; a side that fails is a row too.

        One warm-up each, then repeats in turn, so that a drift of clocks affects all alike.
        """
        rows: dict[str, Row] = {}
        times: dict[str, list[float]] = {}
        for name, run in runs.items():
            try:
                run()  # compiles and tunes
                rows[name] = {"peak_mib": self.peak_mib(run)}
                times[name] = []
            except Exception as error:  # a peer's failure is a result; ours is raised
                if name.startswith("aslfast"):
                    raise
                rows[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        for _ in range(self.repeats):
            for name, values in times.items():
                values.append(self.milliseconds(runs[name]))
        for name, values in times.items():
            rows[name] = quantiles(values) | rows[name]
        return rows

    def peak_mib(self, run: Run) -> float | None:
        """Return the memory that one run allocates at its peak; None on a CPU."""
        if self.device != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def quantiles(values: list[float]) -> dict[str, float]:
    """Return median, p20 and p80."""
    cuts = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values * 9
    return {"ms": round(statistics.median(values), 4), "p20": round(cuts[1], 4), "p80": round(cuts[7], 4)}


def launches(run: Run) -> list[str]:
    """Return the names of the kernels that one call launches, without copies and memsets."""
    run()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    names = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return [name for name in names if not name.startswith(("Memcpy", "Memset"))]
