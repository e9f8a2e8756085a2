"""What a result belongs to: commit, machine, versions, time. And how repeats become one number."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def stamp(bench: str, allow_dirty: bool) -> dict[str, Any]:
    """Return the stamp of a benchmark's result.

    Exit if the working tree differs from its commit, unless `allow_dirty`; the stamp then says so. A tree that was
    copied without its .git counts as different, from a commit that is unknown.
    """
    copied = not (ROOT / ".git").exists()
    dirty = copied or bool(git("status", "--porcelain"))
    if dirty and not allow_dirty:
        sys.exit(f"{bench}: the working tree differs from its commit; commit, or record that with --allow-dirty")
    return {
        "bench": bench,
        "commit": "unknown" if copied else git("rev-parse", "HEAD"),
        "dirty": dirty,
        "date": now(),
        "device": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def git(*words: str) -> str:
    """Return the output of a git command in this repository."""
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def cpu_model() -> str:
    """Return the processor's name and its widest vector extension, where Linux tells."""
    try:
        fields = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    except OSError:
        return platform.processor() or platform.machine()
    processor = {name.strip(): value.strip() for name, value in reversed(fields)}
    vectors = next((name for name in ("avx512bw", "avx2") if name in processor.get("flags", "").split()), "")
    return f"{processor.get('model name', platform.machine())} {vectors}".strip()


def versions_of(*modules: ModuleType) -> dict[str, str]:
    """Return the modules' versions by name."""
    return {module.__name__: module.__version__ for module in modules}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return median, p20 and p80, to four digits."""
    if len(values) == 1:
        return dict.fromkeys(("median", "p20", "p80"), four_digits(values[0]))
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    found = {"median": statistics.median(values), "p20": cuts[1], "p80": cuts[7]}
    return {name: four_digits(value) for name, value in found.items()}


def four_digits(value: float) -> float:
    """Return the value rounded to four significant digits."""
    return float(f"{value:.4g}")
