"""Compile every shipped kernel configuration for sm_90, without a GPU: `python -m aslfast_kernels.compile_report`.

Prints registers, spills, shared memory, HGMMA (Hopper's tensor-core instruction) and UTMALDG (its bulk copy) counts,
read from the machine code. Exit code 1 on a breach: a spill, a matrix kernel without HGMMA, shared memory beyond what
a block can have. Registers are shown but not judged: they differ between compiler versions.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from .compilation.entry import Entry
from .compilation.logprob_entries import head_entries, logits_entries
from .compilation.loss_entries import advantage_entries, policy_loss_entries
from .compilation.measure import Row, measure

MAX_THREADS = 8  # a compilation takes some 200 MB


def shipped() -> list[Entry]:
    """Return every configuration, in the order of the table."""
    return [*head_entries(), *logits_entries(), *advantage_entries(), *policy_loss_entries()]


def _table(rows: list[Row]) -> str:
    lines = ["| configuration | registers | spills | shared KiB | HGMMA | UTMALDG | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row.name, row.registers, row.spills, f"{row.shared_bytes / 1024:.0f}", row.hgmma, row.tma_loads]
        lines.append(f"| {' | '.join(map(str, cells))} | {', '.join(row.breaches) or 'ok'} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the report; return 1 on a breach."""
    parser = argparse.ArgumentParser(prog="python -m aslfast_kernels.compile_report", description=__doc__)
    parser.add_argument("--json", action="store_true", help="JSON instead of a Markdown table")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 replaces the compiler by an interpreter: unset it")
    # The compiler releases the interpreter's lock, and the assembler and the disassembler are processes.
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(measure, shipped()))
    print(json.dumps([row._asdict() for row in rows], indent=1) if options.json else _table(rows))
    return 1 if any(row.breaches for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
