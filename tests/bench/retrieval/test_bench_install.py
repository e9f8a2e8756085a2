"""The benchmark of installations: the scripts find the passage that the query was made from, failures are recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.retrieval import bench_install
from bench.retrieval.bench_install import ENGINES, Engine, one_run, summary, write_passages


def test_our_script_finds_the_passage(tmp_path: Path) -> None:
    query = write_passages(tmp_path / "passages.jsonl")
    script = ENGINES["ours"].script.replace("QUERY", repr(query))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.split()[-1:] == ["p0"], done.stderr


def test_what_fails_is_recorded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(bench_install, "PASSAGES", 10)
    assert "No matching distribution" in one_run(Engine("no-such-package-here", ""), tmp_path, 60)["failed"]


def test_a_summary_counts_what_succeeded() -> None:
    runs = [{"install_s": s, "search_s": 1.0, "total_s": s + 1} for s in (2.0, 4.0, 6.0)]
    found = summary([*runs, {"failed": "x"}])
    assert found["n"] == 3 and found["install_s"]["median"] == 4.0 and len(found["runs"]) == 4
    assert summary([{"failed": "x"}]) == {"n": 0, "runs": [{"failed": "x"}]}
