"""Compile every shipped kernel configuration without a GPU: `python -m aslfast_kernels.compile_report --arch all`.

Prints registers, spills, shared memory, tensor-core products and TMA loads, read from the machine code of each compute
capability in `cards.CARDS` (sm_90 without --arch). Exit code 1 on a breach: a compiler error, a spill, a matrix kernel
without tensor cores, shared memory beyond what a block can have. Registers are shown but not judged: they differ
between compiler versions. "ragged": sizes, strides and addresses that are not divisible by 16.

The first run of all takes minutes a core; Triton keeps what it compiled in its cache.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from .cards import CARDS
from .compilation.entry import Entry
from .compilation.logprob_entries import head_entries, largest_head_entries, logits_entries
from .compilation.loss_entries import advantage_entries, policy_loss_entries
from .compilation.measure import Row, measure

MAX_THREADS = 8  # a compilation takes some 200 MB
FULLEST = (
    "logprob from logits: statistics, fp32",
    "advantage: leave_one_out",
    "policy_loss: cispo",
    "policy_loss: gspo, all options, k3+",
)
COLUMNS = ("arch", "configuration", "registers", "spills", "shared KiB", "products", "TMA loads", "")


def shipped(capability: int) -> list[Entry]:
    """Return every configuration of a compute capability, in the order of the table."""
    card = CARDS[capability]
    return [*head_entries(card), *logits_entries(card), *advantage_entries(card), *policy_loss_entries(card)]


def largest(capability: int) -> list[Entry]:
    """Return the configurations that take the most: the head's with all options, and of the others `FULLEST`."""
    card = CARDS[capability]
    others = [*logits_entries(card), *advantage_entries(card), *policy_loss_entries(card)]
    return [*largest_head_entries(card), *(entry for entry in others if entry.name.startswith(FULLEST))]


def _table(rows: list[Row]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        cells = [*row[:4], f"{row.shared_bytes / 1024:.0f}", row.products, row.tma_loads]
        lines.append(f"| {' | '.join(map(str, cells))} | {', '.join(row.breaches) or 'ok'} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aslfast_kernels.compile_report", description=__doc__)
    names = [str(capability) for capability in CARDS]
    parser.add_argument("--arch", nargs="+", choices=("all", *names), default=["90"], help="compute capabilities")
    parser.add_argument("--largest", action="store_true", help="only the configurations that take the most")
    parser.add_argument("--json", action="store_true", help="JSON instead of a Markdown table")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Print the report; return 1 on a breach."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 replaces the compiler by an interpreter: unset it")
    chosen = list(CARDS) if "all" in options.arch else [int(name) for name in options.arch]
    entries = largest if options.largest else shipped
    work = [(capability, entry) for capability in chosen for entry in entries(capability)]
    # The compiler releases the interpreter's lock, and the assembler and the disassembler are processes.
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(lambda pair: measure(*pair), work))
    print(json.dumps([row._asdict() for row in rows], indent=1) if options.json else _table(rows))
    return 1 if any(row.breaches for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
