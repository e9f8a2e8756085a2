"""What is published works: sdist -> wheel -> an install elsewhere, without network and without the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]

USE_IT = """
import sys
from pathlib import Path
import aslfast.index
from aslfast.data.corpus import Passage
assert "torch" not in sys.modules, "searching must not load torch"
index = aslfast.index.BM25Index.build([Passage("a", "running dogs"), Passage("b", "cats")], "idx")
assert index.search(["the dog"]).ids == [["a"]]
import aslfast_kernels
for module in (aslfast, aslfast_kernels):
    print(Path(module.__file__).parent.parent)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    run(sys.executable, "-c", build, cwd=ROOT)
    return next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip_wheel = [sys.executable, "-m", "pip", "wheel", *OFFLINE, "--no-build-isolation"]
    run(*pip_wheel, "--wheel-dir", out, sdist, cwd=out)
    return next(out.glob("*.whl"))


def files_of(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def test_the_sdist_has_the_sources_and_no_builds(sdist: Path) -> None:
    names = files_of(sdist)
    assert {
        "csrc/python/bindings.cpp",
        "csrc/text/make_unicode.py",
        "CMakeLists.txt",
        "LICENSE",
        "kernels/__init__.py",
    } <= names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith((".venv", "runs"))]


def test_the_wheel_has_every_module_and_data_file(sdist: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [name for name in files_of(sdist) if name.startswith(("aslfast/", "kernels/"))]
    sources.remove("kernels/pyproject.toml")  # that of an install of kernels/ alone
    owed = {re.sub("^kernels/", "aslfast_kernels/", name) for name in sources}
    assert len(owed) > 10
    assert owed - names == set()
    assert [name for name in names if name.startswith("aslfast/_bm25.") and name.endswith(".so")]
    assert not [name for name in names if name.startswith(("tests", "bench", "csrc", "kernels"))]


def test_the_wheel_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(sys.executable, "-m", "pip", "install", *OFFLINE, "--target", site, wheel, cwd=elsewhere)
    where = run(sys.executable, "-c", USE_IT, cwd=elsewhere, PYTHONPATH=str(site))
    assert where.split() == [str(site), str(site)]


def test_the_development_install_finds_both_packages(tmp_path: Path) -> None:
    where = run(sys.executable, "-c", USE_IT, cwd=tmp_path, PYTHONPATH="")
    assert len(where.split()) == 2
