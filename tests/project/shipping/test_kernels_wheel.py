"""aslfast_kernels is a wheel of its own: pure Python, with its version, imported where no checkout is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import aslfast_kernels

ROOT = Path(__file__).resolve().parents[3]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
USE_IT = """
import importlib.metadata
import torch
import aslfast_kernels
logp = aslfast_kernels.linear_logprob(torch.ones(1, 4), torch.zeros(5, 4), torch.tensor([3]))
print(aslfast_kernels.__file__, aslfast_kernels.__version__, importlib.metadata.version("aslfast-kernels"))
print(round(float(logp.exp()), 6))
"""


def test_the_wheel_is_built_and_imported_in_a_clean_folder(tmp_path: Path) -> None:
    source, site, elsewhere = tmp_path / "kernels", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    files = {path.relative_to(ROOT / "kernels") for path in (ROOT / "kernels").rglob("*") if path.suffix in SUFFIXES}
    files = {file for file in files if "build" not in file.parts}
    for file in files:  # a copy: a build leaves files beside its sources
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_bytes((ROOT / "kernels" / file).read_bytes())
    wheel = [
        *PIP,
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(wheel, cwd=tmp_path, check=True)
    (built,) = tmp_path.glob("*.whl")
    version = aslfast_kernels.__version__
    assert built.name == f"aslfast_kernels-{version}-py3-none-any.whl"
    names = set(zipfile.ZipFile(built).namelist())
    assert {f"aslfast_kernels/{file}" for file in files if file.suffix == ".py"} <= names
    zipfile.ZipFile(built).extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", USE_IT], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(site / "aslfast_kernels/__init__.py"), version, version, "0.2"]


SUFFIXES = (".py", ".md", ".toml")
