"""The notebooks run from their first cell to their last, learn something, and keep nothing of a machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "notebooks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.ipynb"))
OF_A_MACHINE = re.compile(r"/(home|root|tmp|usr|work|opt|Users)/|hostname|[A-Z]:\\\\")
MOST_KB = 200


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def printed(notebook: Any) -> str:
    return "\n".join("".join(one.get("text", "")) for cell in notebook.cells for one in cell.get("outputs", []))


def pictures(notebook: Any) -> int:
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    return sum("image/png" in one.get("data", {}) for one in outputs)


def executed(notebook: Any, folder: Path) -> Any:
    """Run a notebook in a new process and in `folder`; raise CellExecutionError where a cell raises."""
    settings = {"timeout": 300, "kernel_name": "python3", "resources": {"metadata": {"path": str(folder)}}}
    nbclient.NotebookClient(notebook, **settings).execute(env=os.environ | {"OMP_NUM_THREADS": "1"})
    return notebook


def test_the_demo_trains_a_round_and_draws_it(tmp_path: Path) -> None:
    notebook = executed(read("demo"), tmp_path)
    assert re.search(r"on 60 held-out questions: \d+\.\d% for the base, \d+\.\d% after round 1", printed(notebook))
    assert "<answer>" in printed(notebook) and pictures(notebook) == 2
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_kernels_teach_a_model_to_count(tmp_path: Path) -> None:
    notebook = executed(read("kernels"), tmp_path)
    first, last = map(
        float, re.search(r"mean reward: ([\d.]+) .* ([\d.]+) in the last ten", printed(notebook)).groups()
    )
    assert first < 0.2 and last > 0.7 and pictures(notebook) == 1


def test_a_cell_that_raises_is_found(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        executed(notebook, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_whole_small_and_of_no_machine(name: str) -> None:
    notebook, file = read(name), FOLDER / f"{name}.ipynb"
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not OF_A_MACHINE.search(printed(notebook)) and OF_A_MACHINE.search("/tmp/x")
    assert set(notebook.metadata) <= {"kernelspec", "language_info"} and file.stat().st_size <= MOST_KB * 1000
    assert f"({name}.ipynb)" in (FOLDER / "README.md").read_text(encoding="utf-8")
