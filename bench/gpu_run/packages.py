"""Make the packages importable on a machine without network: wheels from a folder, the C++ part built in place."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from bench.kernels.checkout import ROOT, make_importable

NEVER = ("torch-", "triton-", "nvidia_")  # the machine's own are measured
BUILD_LIMIT_S, DEVICE_LIMIT_S = 40, 20


def prepare(out: Path, wheels: Path | None) -> tuple[dict[str, str], list[str]]:
    """Return the environment that the parts run in, and a line for everything that could not be had."""
    make_importable()
    site = out / "site"
    missing = unpack(wheels, site) if wheels else []
    # Behind everything, so that what the machine has already comes first: PYTHONPATH would put it before.
    hook = out / "path" / "sitecustomize.py"
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(f"import sys\n\nsys.path.append({str(site)!r})\n", encoding="utf-8")
    path = os.pathsep.join(map(str, (hook.parent, ROOT / "build" / "typing", ROOT)))
    environment = {"PYTHONPATH": path}
    return environment, missing + _build_core(environment)


def unpack(wheels: Path, site: Path) -> list[str]:
    """Unpack the folder's wheels into `site`; return a line for each that is none."""
    found, missing = sorted(wheels.glob("*.whl")), []
    for wheel in found:
        try:
            if not wheel.name.startswith(NEVER):
                zipfile.ZipFile(wheel).extractall(site)
        except (OSError, zipfile.BadZipFile) as error:
            missing.append(f"{wheel.name}: {error}")
    return missing if found else [f"no wheel in {wheels}"]


def device(environment: Mapping[str, str]) -> str | None:
    """Return the GPU's name and the versions that are measured; None without a GPU."""
    code = "import torch, triton; print(torch.cuda.get_device_name(), torch.__version__, triton.__version__, sep=', ')"
    done = _python(["-c", code], DEVICE_LIMIT_S, environment)
    return done.stdout.strip() if done and done.returncode == 0 else None


def _build_core(environment: Mapping[str, str]) -> list[str]:
    """Build aslfast._bm25 in place where it cannot be imported; return a line where it cannot be built either."""
    probe = _python(["-c", "import aslfast._bm25"], BUILD_LIMIT_S, environment)
    if probe and probe.returncode == 0:
        return []
    done = _python(["setup.py", "--quiet", "build_ext", "--inplace"], BUILD_LIMIT_S, environment)
    if done is None:
        return [f"aslfast._bm25 not built: over its {BUILD_LIMIT_S} s"]
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return [] if done.returncode == 0 else [f"aslfast._bm25 not built: {said[-1]}"]


def _python(words: list[str], limit_s: int, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str] | None:
    """Return how a call of this Python ended; None where it took too long."""
    chosen = {"cwd": ROOT, "env": {**os.environ, **environment}, "capture_output": True, "text": True}
    try:
        return subprocess.run([sys.executable, *words], timeout=limit_s, **chosen)
    except subprocess.TimeoutExpired:
        return None
