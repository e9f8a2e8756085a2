"""Some hundred optimizer steps of one recipe in one process: does memory stay flat, do files leak, do steps slow down?

    python -m bench.round.bench_soak --out bench/results/soak.json
    python -m bench.round.bench_soak --steps 20 --set generator.steps=1 --set data.eval_count=20 --allow-dirty

After each step one row: anonymous memory, open files, threads, processor seconds, tokens. Start-up and the first rounds
fill pools and caches, so the second quarter of the rows is compared with the last:

    memory        the median grows by at most 5% or 16 MiB, whichever is more
    files, threads  the most is no more than it was
    time          processor seconds a token, for each phase: the median grows by at most 15%

A token: one that was sampled, prefilled or went through the learner. Processor seconds, so that a machine that does
other things too slows no step down. Exits with 1 where one of the limits is passed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aslfast.cli.progress import quiet_libraries
from aslfast.config import RunConfig, load_recipe
from aslfast.preflight import dry_run
from aslfast.trainer.train import train
from bench.shared.peak_memory import status_bytes
from bench.shared.stamp import ROOT, stamp

MEMORY_SHARE, MEMORY_MIB, TIME_SHARE = 0.05, 16.0, 0.15


@dataclass(frozen=True)
class Row:
    """The process after a step."""

    phase: str
    rss_mib: float  # anonymous: what it holds of its own, not the files that it has mapped
    files: int
    threads: int
    seconds: float  # of the processor, in this step
    tokens: int


class Recorder:
    """Rows from train's reports. What is between two steps (measuring, a phase's end) counts in none."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.updates = 0  # steps that moved an adapter
        self._since = time.process_time()

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        now = time.process_time()
        if event == "step":
            self.updates += bool(values["grad_norm"])
            self.rows.append(row_of(values, now - self._since))
            if len(self.rows) % 50 == 0:
                print(f"soak: {len(self.rows)} steps, {self.rows[-1].rss_mib:.0f} MiB", file=sys.stderr, flush=True)
        self._since = time.process_time()


def row_of(line: dict[str, Any], seconds: float) -> Row:
    prefilled = sum(reuse["context"] - reuse["reused"] for reuse in line["prefix_cache"].values())
    tokens = line["sampled_tokens"] + prefilled + line.get("forward_tokens", 0)
    files = len(os.listdir("/proc/self/fd"))
    rss_mib = round(status_bytes("RssAnon") / 2**20, 1)
    return Row(line["phase"], rss_mib, files, threading.active_count(), round(seconds, 4), tokens)


def limits(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Each thing compared: before (the second quarter), after (the last), the most that it may be, whether it is."""
    quarter = len(rows) // 4
    before, after = rows[quarter : 2 * quarter], rows[-quarter:]
    memory, files, threads = (statistics.median(r.rss_mib for r in before), *most(before))
    found = {
        "memory_mib": check(
            memory, statistics.median(r.rss_mib for r in after), max(memory * (1 + MEMORY_SHARE), memory + MEMORY_MIB)
        ),
        "files": check(files, most(after)[0], files),
        "threads": check(threads, most(after)[1], threads),
    }
    for phase in sorted({r.phase for r in before} & {r.phase for r in after}):
        slow, then = pace(before, phase), pace(after, phase)
        found[f"{phase}_us_a_token"] = check(slow, then, slow * (1 + TIME_SHARE))
    return found


def most(rows: Sequence[Row]) -> tuple[int, int]:
    return max(r.files for r in rows), max(r.threads for r in rows)


def pace(rows: Sequence[Row], phase: str) -> float:
    """Microseconds a token, the median of the phase's steps."""
    return statistics.median(1e6 * r.seconds / r.tokens for r in rows if r.phase == phase)


def check(before: float, after: float, most: float) -> dict[str, Any]:
    return {"before": round(before, 2), "after": round(after, 2), "most": round(most, 2), "kept": after <= most}


def configured(recipe: str, steps: int, overrides: Sequence[str]) -> RunConfig:
    """With as many rounds as give that many steps, where no phase ends early."""
    config = load_recipe(recipe, overrides)
    a_round = sum(phase.steps for phase in dry_run.phases(config))
    return load_recipe(recipe, [*overrides, f"rounds={-(-steps // a_round)}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--set", action="append", default=["threads=1"], help="key=value of the recipe")
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "soak.json")
    args = parser.parse_args()
    stamped, config, recorder = (
        stamp("soak", args.allow_dirty),
        configured(args.recipe, args.steps, args.set),
        Recorder(),
    )
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        train(config, Path(folder) / "run", recorder)
        took = time.perf_counter() - started
    if len(recorder.rows) < 8:
        sys.exit(f"soak: {len(recorder.rows)} steps are too few to compare quarters of; raise --steps")
    found = limits(recorder.rows)
    result = {
        **stamped, "recipe": args.recipe, "set": args.set, "rounds": config.rounds, "steps": len(recorder.rows),
        "updates": recorder.updates, "wall_s": round(took), "limits": found,
        "columns": [field.name for field in dataclasses.fields(Row)],
        "rows": [dataclasses.astuple(row) for row in recorder.rows],
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result) + "\n")
    for name, values in found.items():
        print(f"{name}: {values['before']:g} -> {values['after']:g}, at most {values['most']:g}"
              f"{'' if values['kept'] else ': PASSED'}")  # fmt: skip
    sys.exit(not all(values["kept"] for values in found.values()))


if __name__ == "__main__":
    main()
