"""What a soak must keep: flat memory, files and threads, and the same processor time per token."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

MEMORY_FRACTION, MEMORY_MIB, TIME_FRACTION = 0.05, 16.0, 0.15


@dataclass(frozen=True)
class SoakRow:
    """The process after a step."""

    phase: str
    rss_mib: float  # anonymous: what it allocated itself, not the files that it has mapped
    files: int
    threads: int
    seconds: float  # of the processor, in this step
    tokens: int


class Limit(TypedDict):
    """One comparison: the second quarter of the rows, the last, the most that the last may be, and whether it is."""

    before: float
    after: float
    limit: float
    kept: bool


def limits(rows: Sequence[SoakRow]) -> dict[str, Limit]:
    """Return all comparisons by name."""
    quarter = len(rows) // 4
    before, after = rows[quarter : 2 * quarter], rows[-quarter:]
    memory = statistics.median(row.rss_mib for row in before)
    memory_after, memory_limit = statistics.median(row.rss_mib for row in after), MEMORY_FRACTION * memory
    files, threads = max(row.files for row in before), max(row.threads for row in before)
    found = {
        "memory_mib": compare(memory, memory_after, memory + max(memory_limit, MEMORY_MIB)),
        "files": compare(files, max(row.files for row in after), files),
        "threads": compare(threads, max(row.threads for row in after), threads),
    }
    for phase in sorted({row.phase for row in before} & {row.phase for row in after}):
        time_before, time_after = us_per_token(before, phase), us_per_token(after, phase)
        found[f"{phase}_us_per_token"] = compare(time_before, time_after, time_before * (1 + TIME_FRACTION))
    return found


def us_per_token(rows: Sequence[SoakRow], phase: str) -> float:
    """Return microseconds per token, the median of the phase's steps."""
    return statistics.median(1e6 * row.seconds / row.tokens for row in rows if row.phase == phase)


def compare(before: float, after: float, limit: float) -> Limit:
    """Return one comparison, rounded."""
    return {"before": round(before, 2), "after": round(after, 2), "limit": round(limit, 2), "kept": after <= limit}
