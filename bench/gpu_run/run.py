"""Run every part of `bench/on_gpu.sh`, each bounded in time, and leave what is there after every part.

    bash bench/on_gpu.sh OUT [WHEELS] [--rehearse] [--parts NAME ...]

WHEELS: what this Python lacks, aslfast's dependencies and peers; a peer without one is skipped and named.

OUT gets parts.json (stamped: every part's state, seconds and last lines; written again after every part), the parts'
own stamped kernels.json, learner.json and sampler.json, and the run tiny-run. A part that fails or runs out of time
does not stop the others. Exit code 1 where one did.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.gpu_run.packages import device, prepare
from bench.gpu_run.parts import PARTS, Part
from bench.gpu_run.summary import lines
from bench.shared.results import write_result
from bench.shared.stamp import ROOT, stamp

TOTAL_S = 540
TIMED_OUT = 124  # of coreutils' timeout
TAIL = 12  # lines of a part's output that are kept


def run_part(part: Part, args: argparse.Namespace, environment: dict[str, str], limit_s: int) -> dict[str, Any]:
    """Return the part's state; its output is in OUT/logs."""
    log, started = args.out / "logs" / f"{part.name}.txt", time.perf_counter()
    more = part.rehearsal_environment if args.rehearse else part.environment
    words = ["timeout", "--kill-after=5", str(limit_s), *part.words(args.rehearse, args.out, args.commit)]
    printed = args.out / f"{part.name}.json" if part.prints_result and args.rehearse else None
    with log.open("w") as errors, (printed or log).open("a") as output:
        code = subprocess.run(words, cwd=ROOT, env=os.environ | environment | more, stdout=output, stderr=errors)
    state = {0: "ok", TIMED_OUT: f"over its {limit_s} s"}.get(code.returncode, f"failed, exit code {code.returncode}")
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-TAIL:]
    seconds = round(time.perf_counter() - started, 1)
    return {"part": part.name, "state": state, "seconds": seconds, "limit_s": limit_s, "said": said}


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the chosen parts in order, within the time that is left to all; save after each."""
    started = time.perf_counter()
    states: list[dict[str, Any]] = []
    environment, missing = prepare(args.out, args.wheels)
    gpu = None if args.rehearse else device(environment)
    if not (gpu or args.rehearse):
        print("on_gpu: not measured: no CUDA device here (--rehearse runs tiny sizes on the CPU)")
        return states
    gpu = {"device": gpu} if gpu else {}
    stamped = {**stamp("on_gpu", allow_dirty=True), **gpu, "rehearsal": args.rehearse, "not_installed": missing}
    args.commit = stamped["commit"] + ("-dirty" if stamped["dirty"] else "")
    for part in PARTS:
        if part.name in args.parts:
            left = int(TOTAL_S - (time.perf_counter() - started)) - 5
            states.append(run_part(part, args, environment, max(1, min(part.limit_s, left))))
            write_result(args.out / "parts.json", {**stamped, "parts": states})
            print(f"{part.name}: {states[-1]['state']}, {states[-1]['seconds']} s", flush=True)
    print("\n".join(lines(args.out, {**stamped, "parts": states})))
    return states


def arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("wheels", type=Path, nargs="?", help="folder of wheels that this Python lacks")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on a CPU; times mean nothing")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    args.out = args.out.resolve()
    (args.out / "logs").mkdir(parents=True, exist_ok=True)
    return args


def main() -> int:
    """Run from the command line; return 1 where a part did not end well."""
    return int(any(state["state"] != "ok" for state in run_all(arguments())))


if __name__ == "__main__":
    sys.exit(main())
