"""Hundreds of optimizer steps of one recipe in one process: does memory stay flat, do files leak, do steps slow down?

    python -m bench.round.bench_soak --out bench/results/soak.json
    python -m bench.round.bench_soak --steps 20 --set generator.steps=1 --set data.eval_count=20 --allow-dirty

After each step one row: anonymous memory, open files, threads, processor time, tokens. Start-up and the first rounds
fill pools and caches, so the second quarter of the rows is compared with the last:

    memory          the median grows by at most 5% or 16 MiB, whichever is more
    files, threads  the maximum does not grow
    time            processor time per token, for each phase: the median grows by at most 15%

A token: one that was sampled, prefilled or went through the learner. Processor time, so that other work on the machine
slows no step down. Exits with 1 if one of the limits is exceeded.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from aslfast.cli.progress import quiet_libraries
from aslfast.config import RunConfig, load_recipe
from aslfast.learner.step_metrics import UpdateStats
from aslfast.rounds.records import Observer, RoundRecord, StepRecord
from aslfast.systems.registry import plan_of
from aslfast.trainer.train import train
from bench.round.soak_limits import Limit, SoakRow, limits
from bench.shared.peak_memory import status_bytes
from bench.shared.results import write_result
from bench.shared.stamp import ROOT, stamp

LEAST_ROWS = 8  # quarters of two


class SoakRecorder(Observer):
    """Collects a row a step. The evaluation between two steps counts in none."""

    def __init__(self) -> None:
        self.rows: list[SoakRow] = []
        self.updates = 0  # steps that updated an adapter
        self._since = time.process_time()

    def step(self, record: StepRecord) -> None:
        """Add a step's row."""
        self.updates += bool(record.update.grad_norm)
        self.rows.append(row_of(record, time.process_time() - self._since))
        if len(self.rows) % 50 == 0:
            print(f"soak: {len(self.rows)} steps, {self.rows[-1].rss_mib:.0f} MiB", file=sys.stderr, flush=True)
        self._since = time.process_time()

    def evaluated(self, record: RoundRecord) -> None:
        """Start the clock of the next step."""
        self._since = time.process_time()


def row_of(record: StepRecord, seconds: float) -> SoakRow:
    """Return the process as it is after a step that took `seconds`."""
    prefilled = sum(reuse.context - reuse.reused for reuse in record.prefix_cache.values())
    learned = record.update.forward_tokens if isinstance(record.update, UpdateStats) else 0
    tokens = record.counters.sampled_tokens + prefilled + learned
    files = len(os.listdir("/proc/self/fd"))
    rss_mib = round(status_bytes("RssAnon") / 2**20, 1)
    return SoakRow(record.phase, rss_mib, files, threading.active_count(), round(seconds, 4), tokens)


def configured(recipe: str, steps: int, overrides: Sequence[str]) -> RunConfig:
    """Return the recipe with as many rounds as give that many steps if no phase ends early."""
    config = load_recipe(recipe, overrides)
    per_round = sum(phase.steps for phase in plan_of(config))
    return load_recipe(recipe, [*overrides, f"rounds={-(-steps // per_round)}"])


def limit_line(name: str, limit: Limit) -> str:
    """Return a line for people."""
    exceeded = "" if limit["kept"] else ": EXCEEDED"
    return f"{name}: {limit['before']:g} -> {limit['after']:g}, limit {limit['limit']:g}{exceeded}"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--set", action="append", default=["threads=1"], help="key=value of the recipe")
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "soak.json")
    args = parser.parse_args()
    stamped, recorder = stamp("soak", args.allow_dirty), SoakRecorder()
    config = configured(args.recipe, args.steps, args.set)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        train(config, Path(folder) / "run", recorder)
        took = time.perf_counter() - started
    if len(recorder.rows) < LEAST_ROWS:
        sys.exit(f"soak: {len(recorder.rows)} steps are too few to compare quarters of them; raise --steps")
    found = limits(recorder.rows)
    result = {
        **stamped, "recipe": args.recipe, "set": args.set, "rounds": config.rounds, "steps": len(recorder.rows),
        "updates": recorder.updates, "wall_s": round(took), "limits": found,
        "columns": [field.name for field in dataclasses.fields(SoakRow)],
        "rows": [dataclasses.astuple(row) for row in recorder.rows],
    }  # fmt: skip
    write_result(args.out, result, indent=None)
    print("\n".join(limit_line(name, limit) for name, limit in found.items()))
    sys.exit(not all(limit["kept"] for limit in found.values()))


if __name__ == "__main__":
    main()
