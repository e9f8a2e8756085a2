"""A real language model teaches itself on real text: one command, from the weights to the table.

    python -m bench.real --size short --out runs/real
    python -m bench.real --size full --out runs/real-full --test

Converts the model, splits the questions by title, indexes the passages, writes demonstrations, fine-tunes the three
roles on them (the cold start), then plays the loop with rule reward and, from the same cold start, the ASL rounds
without labels. Before and after each it evaluates on dev, at the training temperature. --test evaluates all four on
the test questions as well, at the end; nothing else reads them. The result is OUT/real.json, the adapters in bfloat16
are in OUT/adapters. What all of it means: docs/real.md.

A run may be killed at any moment: the same command goes on, to the same figures. --cold-start takes the adapters of
another run (OUT/adapters/cold-start) in place of the fine-tunings. --dtype auto is bfloat16 on a GPU and on a CPU that
multiplies it in hardware, else float32; a folder keeps the one that it was started with.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from aslfast.errors import UserError
from aslfast.files.jsonl import append_line, read_lines
from bench.real_run.folder import RunFolder
from bench.real_run.pipeline import read_record, run_stages
from bench.real_run.settings import SIZES, RealSettings, check_dtype
from bench.real_run.stages import EVALUATIONS, RealRun, check_inputs
from bench.shared.stamp import ROOT, stamp

DATA = ROOT.parent / "shared" / "data"


def run(settings: RealSettings, folder: RunFolder, made: dict[str, Any], test: bool = False) -> None:
    """Run what is not done, then write and print the result. made: the stamp. Raise UserError, KeyboardInterrupt."""
    check_inputs(settings)
    folder.path.mkdir(parents=True, exist_ok=True)
    settings.keep(folder)
    append_line(folder.made, made)
    run_stages(RealRun(settings, folder, test).stages(), folder.stages)

    from bench.real_run.report import write_report  # loads torch, which no process that forks has done

    tested = all(read_record(folder.stages, f"{name}-test").done for name in EVALUATIONS)
    write_report(settings, folder, read_lines(folder.made)[::-1], tested)


def kept_dtype(folder: RunFolder, wanted: str) -> str:
    """Return the dtype to use: for "auto" that of a folder which is started already. Raise UserError."""
    if wanted == "auto" and folder.settings.exists():
        return json.loads(folder.settings.read_text(encoding="utf-8"))["dtype"]
    return check_dtype(wanted)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, new or to go on with")
    parser.add_argument("--data", default=str(DATA), help="folder with passages.parquet and questions.parquet")
    parser.add_argument("--model", default="smollm2-135m", help="known name, GGUF file, wheel, or a model folder")
    parser.add_argument("--cold-start", default="", help="folder with the adapters of the three roles to start from")
    parser.add_argument("--test", action="store_true", help="at the end, evaluate on the test questions too")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16, of the base")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="key=value of the three recipes")
    parser.add_argument("--allow-dirty", action="store_true")
    args = parser.parse_args()
    made, folder = stamp("real", args.allow_dirty), RunFolder(args.out)
    try:
        settings = RealSettings(
            SIZES[args.size], args.data, args.model, kept_dtype(folder, args.dtype), args.threads, args.seed,
            args.cold_start, tuple(args.set),
        )  # fmt: skip
        run(settings, folder, made, args.test)
    except UserError as error:
        sys.exit(f"real: {error}")
    except KeyboardInterrupt as stop:
        print(f"real: {stop}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
