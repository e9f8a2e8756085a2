"""What a benchmark's figures belong to: commit, machine, versions, time. And how repeats become one figure."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def stamp(bench: str, allow_dirty: bool) -> dict[str, Any]:
    """Ends the program where the tree differs from its commit, unless that is allowed (and recorded)."""
    dirty = bool(git("status", "--porcelain"))
    if dirty and not allow_dirty:
        sys.exit(f"{bench}: the tree differs from its commit; commit, or pass --allow-dirty to have it recorded")
    return {
        "bench": bench,
        "commit": git("rev-parse", "HEAD"),
        "dirty": dirty,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def cpu_model() -> str:
    """The processor's name and the widest vectors it has, where Linux tells."""
    try:
        fields = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, value in reversed(fields)}
    vectors = next((name for name in ("avx512bw", "avx2") if name in facts.get("flags", "").split()), "")
    return f"{facts.get('model name', platform.machine())} {vectors}".strip()


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, p20 and p80, to four digits."""
    if len(values) == 1:
        return dict.fromkeys(("median", "p20", "p80"), float(f"{values[0]:.4g}"))
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    figures = {"median": statistics.median(values), "p20": cuts[1], "p80": cuts[7]}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}
