"""Compares two runs: every metric but timings, and every adapter byte for byte.

    python -m bench.shared.compare_runs runs/before runs/after [--renamed names.json] [--close 1e-3]

names.json maps the names of the first run's metrics, or of its adapters' folders, to those of the second. --close
allows a relative difference (SGLang's batches move last bits from run to run, so there adapters are not compared).
Prints what differs; the exit code is 1 if anything does.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from aslfast.rounds.records import TIMED

ABSOLUTE = 1e-4  # for --close: differences of log-probs are rounding errors themselves


def lines_of(file: Path, renamed: Mapping[str, str]) -> list[object]:
    """Return the records of a file of JSON lines, keys renamed, without timings."""
    return [_renamed(json.loads(line), renamed) for line in file.read_text(encoding="utf-8").splitlines()]


def _renamed(value: object, renamed: Mapping[str, str]) -> object:
    if isinstance(value, list):
        return [_renamed(item, renamed) for item in value]
    if not isinstance(value, dict):
        return renamed.get(value, value) if isinstance(value, str) else value
    names = {key: renamed.get(key, key) for key in value}
    return {names[key]: _renamed(item, renamed) for key, item in value.items() if names[key] not in TIMED}


def differences(before: object, after: object, where: str, close: float) -> list[str]:
    """Return what differs between two JSON values, a line each."""
    if isinstance(before, dict) and isinstance(after, dict):
        if before.keys() != after.keys():
            return [f"{where}: keys {sorted(before.keys() ^ after.keys())}"]
        return [text for key in before for text in differences(before[key], after[key], f"{where}.{key}", close)]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [text for i, (b, a) in pairs for text in differences(b, a, f"{where}[{i}]", close)]
    same = before == after or (close and _numbers_close(before, after, close))
    return [] if same else [f"{where}: {before!r} -> {after!r}"]


def _numbers_close(before: object, after: object, close: float) -> bool:
    numbers = isinstance(before, int | float) and isinstance(after, int | float)
    return numbers and math.isclose(float(before), float(after), rel_tol=close, abs_tol=ABSOLUTE)  # pyright: ignore


def compare(before: Path, after: Path, renamed: Mapping[str, str], close: float = 0.0) -> list[str]:
    """Return what differs between two run folders, a line each."""
    found = []
    for name in ("metrics.jsonl", "rounds.jsonl"):
        found += differences(lines_of(before / name, renamed), lines_of(after / name, {}), name, close)
    weights = [_adapters(before, renamed), _adapters(after, {})]
    if weights[0].keys() != weights[1].keys():
        found.append(f"adapters: {sorted(weights[0].keys() ^ weights[1].keys())}")
    elif not close:
        found += [f"adapters/{name}: other bytes" for name, data in weights[0].items() if weights[1][name] != data]
    return found


def _adapters(run: Path, renamed: Mapping[str, str]) -> dict[str, bytes]:
    files = sorted((run / "adapters").rglob("adapter_model.safetensors"))
    names = [file.relative_to(run / "adapters").parts for file in files]
    return {
        "/".join(renamed.get(part, part) for part in name): f.read_bytes() for name, f in zip(names, files, strict=True)
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--renamed", type=Path, help="JSON object: old name -> new name")
    parser.add_argument("--close", type=float, default=0.0, help="relative difference that is allowed")
    args = parser.parse_args()
    for run in (args.before, args.after):
        if not (run / "metrics.jsonl").is_file():
            parser.error(f"{run}: not the folder of a run, it has no metrics.jsonl")
    renamed = json.loads(args.renamed.read_text(encoding="utf-8")) if args.renamed else {}
    found = compare(args.before, args.after, renamed, args.close)
    print("\n".join(found) or f"{args.before} and {args.after}: the same")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
