"""`aslfast report` of a run that cannot be written, and of one that is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aslfast.cli.main import app
from tests.support.run_files import round_line, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", [round_line(0, 0.4, 0.7, (0.4,)), round_line(1, 0.5, 0.7, (0.5,))], [])


def report(*args: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, args)])


def test_a_picture_that_cannot_be_written_costs_no_table(run: Path) -> None:
    """A folder of its name is in the way, for root too."""
    written = report(run)
    assert written.stdout.endswith(f"\nCurves: {run}/curves.png\n") and written.stderr == ""
    (run / "curves.png").unlink()
    (run / "curves.png").mkdir()
    result = report(run)
    assert result.exit_code == 0
    assert result.stdout == written.stdout.replace(f"Curves: {run}/curves.png\n", "")
    assert result.stderr.count("\n") == 1 and f"{run}/curves.png: cannot be written (Is a directory)" in result.stderr
    printed = report(run, "--json")
    assert json.loads(printed.stdout)["curves"] is None and "cannot be written" in printed.stderr
    assert sorted(path.name for path in run.iterdir()) == ["curves.png", "metrics.jsonl", "rounds.jsonl"]


@pytest.mark.parametrize("line", ["[1]", "{}", "3", "{", "[" * 5000])
def test_a_damaged_run_is_named(line: str, run: Path) -> None:
    (run / "rounds.jsonl").write_text(line + "\n")
    result = report(run)
    assert result.exit_code == 2 and result.stdout == "" and "rounds.jsonl" in result.stderr
    assert result.stderr.count("\n") == 1 and "damaged" in result.stderr
