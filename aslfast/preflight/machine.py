"""What a user needs to know before a run: what is installed, whether it fits together, and whether each part works.

Every check does the thing itself where that is cheap, and a check that fails never stops the others: this has to work
where something is missing. What is slow to import, or may be broken, is imported in the check.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

SETUP = "run make setup"
SGLANG = "run make setup-sglang (CPU) or pip install 'aslfast[sglang]' (GPU)"
LOW_MEMORY_GB, LOW_DISK_GB = 4, 5  # the tiny recipe with SGLang on a CPU holds about 2 GB, a run's folder less than 1


@dataclass(frozen=True, slots=True)
class Stack:
    """Versions that were released for each other: SGLang pins torch exactly, and torch its triton."""

    torch: str
    triton: str
    sglang: tuple[str, str]  # first and last
    transformers: str  # the last that this SGLang takes


STACKS = (
    Stack("2.11", "3.6", ("0.5.12", "0.5.17"), "5.12"),
    Stack("2.13", "3.7", ("0.5.18", "0.5.21"), "5.12"),
    Stack("2.14", "3.8", ("0.5.22", "0.5.23"), "5.19"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """What one check found. A warning is ok, and has a remedy."""

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        return self.state != "failed"


def check_machine() -> list[Line]:
    """All checks without a sampler: 2 to 3 seconds, most of it the import of torch."""
    return [
        attempt(name, check, remedy)
        for name, check, remedy in (
            ("python", python, "use Python 3.10, 3.11 or 3.12"),
            ("versions", versions, SETUP),
            ("sglang", sglang, SGLANG),
            ("devices", devices, f"torch does not load: {SETUP}"),
            ("kernels", kernels, SETUP),
            ("compiler", compiler, ""),
            ("core", core, f"the C++ core is not built: {SETUP}"),
            ("index", index, "see the line core; else check that the folder for temporary files can be written"),
            ("memory", memory, ""),
            ("disk", disk, "free some space"),
        )
    ]


def attempt(name: str, check: Callable[[], Line], remedy: str) -> Line:
    """The check's line; a failed one, with this remedy, where the check raises anything."""
    try:
        return check()
    except Exception as error:  # whatever is broken, the doctor goes on
        return Line(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", remedy)


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def number(text: str) -> tuple[int, ...]:
    """The release of a version: 0.5.12.post1+cu130 -> (0, 5, 12)."""
    parts = text.split("+")[0].split(".")
    return tuple(int(part) for part in parts[:3] if part.isdecimal())


def stack_of(torch: str) -> Stack | None:
    return next((stack for stack in STACKS if number(stack.torch) == number(torch)[:2]), None)


def python() -> Line:
    found = platform.python_version()
    fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    return Line("python", "ok" if fits else "failed", found, "" if fits else "use Python 3.10, 3.11 or 3.12")


def versions() -> Line:
    """torch and what must fit to it."""
    found = {name: installed(name) for name in ("torch", "triton", "transformers", "peft")}
    detail = ", ".join(f"{name} {found[name] or 'missing'}" for name in found)
    needed = ["torch", "transformers", "peft"]
    if missing := [name for name in needed if not found[name]]:
        return Line("versions", "failed", detail, f"{', '.join(missing)} missing: {SETUP}")
    stack = stack_of(str(found["torch"]))
    if stack is None:
        known = ", ".join(stack.torch for stack in STACKS)
        return Line("versions", "warning", detail, f"not tried with this torch; tried are {known}")
    if found["triton"] and number(found["triton"])[:2] != number(stack.triton):
        return Line("versions", "warning", detail, f"torch {stack.torch} goes with triton {stack.triton}")
    return Line("versions", "ok", detail)


def sglang() -> Line:
    found, torch = installed("sglang"), installed("torch")
    if not found:
        return Line("sglang", "warning", "not installed: sampler.kind=local alone", SGLANG)
    stack = stack_of(torch or "0")
    if stack is None:
        return Line("sglang", "warning", found, f"not tried with torch {torch}")
    first, last = stack.sglang
    if not number(first) <= number(found) <= number(last):
        return Line(
            "sglang", "warning", f"{found} with torch {torch}", f"this torch goes with sglang {first} to {last}"
        )
    transformers = installed("transformers")
    if transformers and number(transformers)[:2] > number(stack.transformers):
        remedy = f"sglang {found} goes with transformers up to {stack.transformers}"
        return Line("sglang", "warning", f"{found} with transformers {transformers}", remedy)
    return Line("sglang", "ok", f"{found}, made for torch {stack.torch}")


def devices() -> Line:
    import torch

    if not torch.cuda.is_available():
        detail = f"no GPU: all on the CPU, {torch.get_num_threads()} threads of {os.cpu_count()}"
        if Path("/proc/driver/nvidia").exists():
            return Line("devices", "warning", detail, "there is an NVIDIA driver: install a CUDA build of torch")
        return Line("devices", "ok", detail)
    found = []
    for i in range(torch.cuda.device_count()):
        (free, total), (major, minor) = torch.cuda.mem_get_info(i), torch.cuda.get_device_capability(i)
        found.append(
            f"{torch.cuda.get_device_name(i)} (sm_{major}{minor}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free)"
        )
    return Line("devices", "ok", "; ".join(found))


def kernels() -> Line:
    """The log-prob kernel that would be chosen here, run and compared with torch's softmax in float64."""
    import torch
    from aslfast_kernels import linear_logprob
    from aslfast_kernels.arguments import choose_impl

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    hidden_TD, weight_VD = (torch.randn(n, 64, generator=generator).to(device) for n in (8, 1000))
    target_T = torch.arange(8, device=device)
    wanted_T = (hidden_TD.double() @ weight_VD.double().T).log_softmax(-1).gather(1, target_T[:, None])[:, 0]
    found_T = linear_logprob(hidden_TD, weight_VD, target_T)
    error = float((found_T - wanted_T).abs().max())  # pyright: ignore  # no entropies were asked for
    detail = f"{choose_impl(None, hidden_TD)} on the {device}, log-probs off by {error:.1g}"
    if not error < 1e-3:  # TF32 where torch's own product may use it
        return Line("kernels", "failed", detail, "report it with this output; loss and log-probs cannot be trusted")
    return Line("kernels", "ok", detail)


def compiler() -> Line:
    """Needed to build the core alone."""
    missing = [name for name in ("cmake", "c++") if not shutil.which(name)]
    if missing:
        return Line("compiler", "warning", f"{' and '.join(missing)} missing", "needed only to build the C++ core")
    return Line("compiler", "ok", "cmake and c++ are there")


def core() -> Line:
    from aslfast import _bm25

    return Line("core", "ok", f"loads; vector instructions: {_bm25.simd_names()[-1]}")


def index() -> Line:
    from aslfast.data.corpus import Passage
    from aslfast.index.bm25 import BM25Index

    passages = [
        Passage("a", "Oslo\nOslo lies on the Aker."),
        Passage("b", "Aker\nA river."),
        Passage("c", "Rome\nFar."),
    ]
    with tempfile.TemporaryDirectory(prefix="aslfast-doctor-") as folder:
        found = BM25Index.build(passages, Path(folder) / "idx", threads=1).search(["the river Aker"], 1).ids
    if found != [["b"]]:
        return Line("index", "failed", f"a search for b found {found}", f"build the core again: {SETUP}")
    return Line("index", "ok", "three passages built and searched")


def memory() -> Line:
    """Of the machine, or of the container where that is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    low = free < LOW_MEMORY_GB * 1e9
    remedy = f"below {LOW_MEMORY_GB} GB even the tiny recipe may not fit with SGLang" if low else ""
    return Line("memory", "warning" if low else "ok", f"{free / 1e9:.1f} GB free", remedy)


def disk() -> Line:
    free = shutil.disk_usage(".").free
    low = free < LOW_DISK_GB * 1e9
    return Line("disk", "warning" if low else "ok", f"{free / 1e9:.0f} GB free here", "free some space" if low else "")
