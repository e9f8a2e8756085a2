"""The result of a real run: every figure, the curves and ten questions' trajectories, in one stamped JSON.

    python -m bench.real_run.report bench/results/real.json

Prints its tables and puts them between the markers of docs/real.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aslfast.config.roles import ROLES
from aslfast.files.atomic import write_text
from aslfast.files.jsonl import read_lines
from bench.real_run.adapters import write_adapters
from bench.real_run.folder import READING, RunFolder, adapters_of
from bench.real_run.markdown import page_block, tables
from bench.real_run.pipeline import read_record
from bench.real_run.played import JUDGE, POLICY, PROBE, read_rows
from bench.real_run.scores import Figures, ceiling_figures, differences, judge_figures, policy_figures, probe_figures
from bench.real_run.settings import RealSettings, cold_config
from bench.real_run.split import SPLITS
from bench.real_run.stages import EVALUATIONS
from bench.shared.pages import replace_block
from bench.shared.results import read_result, write_result
from bench.shared.stamp import ROOT

PAIRS = (("untouched", "cold-start"), ("cold-start", "rule"), ("cold-start", "asl"), ("rule", "asl"))
EXAMPLES = 10  # questions whose trajectories are kept
PAGE = ROOT / "docs" / "real.md"
BEGIN, END = "<!-- made by bench/real_run/report.py -->", "<!-- end -->"


def collect(settings: RealSettings, folder: RunFolder, stamps: Sequence[Mapping[str, Any]], test: bool) -> Figures:
    """Return the result of a folder whose stages are done. stamps: of the commands that worked on it, newest first."""
    splits = ["dev", "test"] if test else ["dev"]
    return {
        **stamps[0],
        "made": list(stamps),
        "settings": _named(settings),
        "split": {name: _count(folder.split(name)) for name in SPLITS},
        "ceilings": {split: ceiling_figures(_json(folder.retrieval(split))) for split in splits},
        "evaluations": {split: _evaluations(settings, folder, split) for split in splits},
        "differences": {split: _differences(settings, folder, split) for split in splits},
        "test_touched": read_lines(folder.test_log) if folder.test_log.exists() else [],
        "curves": curves(folder),
        "stages": {file.stem: asdict(read_record(folder.stages, file.stem)) for file in _records(folder)},
        "examples": _examples(folder, splits[-1]),
    }  # fmt: skip


def write_report(settings: RealSettings, folder: RunFolder, stamps: Sequence[Mapping[str, Any]], test: bool) -> None:
    """Write the JSON and, beside it, the adapters in bfloat16; print the tables. Raise OSError."""
    result = collect(settings, folder, stamps, test)
    write_result(folder.result, result, indent=1)
    for name in list(EVALUATIONS)[1:]:
        adapters = adapters_of(folder, name, settings.cold_start)
        write_adapters(cold_config(settings, folder), adapters, folder.adapters(name))
    print("\n".join(tables(result)))


def _named(settings: RealSettings) -> Figures:
    """Return the settings with names in place of the folders of this machine."""
    return asdict(settings) | {key: Path(getattr(settings, key)).name for key in ("data", "model", "cold_start")}


def _evaluations(settings: RealSettings, folder: RunFolder, split: str) -> Figures:
    return {name: _evaluation(settings, folder, name, split) for name in EVALUATIONS}


def _evaluation(settings: RealSettings, folder: RunFolder, name: str, split: str) -> Figures:
    rows = {kind: read_rows(folder.evaluation(name, split), kind) for kind in (POLICY, JUDGE, PROBE)}
    answered, seed = rows[POLICY], settings.seed
    figures: Figures = {"policy": policy_figures(answered, [row["gold_found"] for row in answered], seed)}
    if rows[JUDGE]:
        figures["judge"] = judge_figures(rows[JUDGE], seed)
        figures["probe"] = probe_figures(answered[: settings.size.judged_questions], rows[PROBE], seed)
    return figures


def _differences(settings: RealSettings, folder: RunFolder, split: str) -> Figures:
    rows = {name: read_rows(folder.evaluation(name, split), POLICY) for name in EVALUATIONS}
    return {f"{after} - {before}": differences(rows[before], rows[after], settings.seed) for before, after in PAIRS}


def curves(folder: RunFolder) -> Figures:
    """Return the lines of every fine-tuning and loop, numbers and alarms alone."""
    tuned = {name: _lines(folder.cold_start(name), "metrics", "epochs") for name in (READING, *ROLES)}
    loops = {name: _lines(folder.loop(name), "metrics", "rounds") for name in ("rule", "asl")}
    return {"cold-start": {role: lines for role, lines in tuned.items() if lines["metrics"]}, **loops}


def _lines(folder: Path, *names: str) -> dict[str, list[Figures]]:
    files = {name: folder / f"{name}.jsonl" for name in names}
    return {name: [_slim(line) for line in read_lines(file)] if file.exists() else [] for name, file in files.items()}


def _slim(line: Mapping[str, Any]) -> Figures:
    """Return the line without what is neither a number, a name nor an alarm; numbers to six digits."""
    kept = {key: value for key, value in line.items() if isinstance(value, int | float | str) or key == "alarms"}
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in kept.items()}


def _examples(folder: RunFolder, split: str) -> list[Figures]:
    """Return the first questions with what each evaluation's policy did."""
    rows = {name: read_rows(folder.evaluation(name, split), POLICY)[:EXAMPLES] for name in EVALUATIONS}
    shown = ("output", "stop", "em", "conversation")
    return [
        {
            **{key: rows["untouched"][i][key] for key in ("id", "question", "references")},
            **{name: {key: of[i][key] for key in shown} for name, of in rows.items()},
        }
        for i in range(len(rows["untouched"]))
    ]


def _records(folder: RunFolder) -> list[Path]:
    return sorted(folder.stages.glob("*.json"), key=lambda file: file.stat().st_mtime)


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _count(file: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(file).num_rows


def with_block(page: str, lines: Sequence[str]) -> str:
    """Return the page with these lines between its markers."""
    return replace_block(page, BEGIN, END, lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    result = read_result(parser.parse_args().result)
    print("\n".join(tables(result)))
    write_text(PAGE, with_block(PAGE.read_text(encoding="utf-8"), page_block(result)))


if __name__ == "__main__":
    main()
