"""The doctor's checks of a machine: what is installed, whether it fits together, and whether each part works.

Every check does the thing itself where that is cheap, and a check that fails never stops the others: they have to work
where something is missing. A package that is slow to import, or may be broken, is imported inside its check.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from aslfast.trainer.preflight.check import CheckResult, run_check
from aslfast.trainer.preflight.versions import (
    SETUP,
    SGLANG_SETUP,
    USE_PYTHON,
    check_python,
    check_sglang,
    check_versions,
)

LOW_MEMORY_GB, LOW_DISK_GB = 4, 5  # the tiny recipe with SGLang on a CPU holds about 2 GB, a run's folder less than 1


def check_machine() -> list[CheckResult]:
    """Return the results of all checks without a sampler: 2 to 3 seconds, most of it the import of torch."""
    checks = (
        ("python", check_python, USE_PYTHON),
        ("versions", check_versions, SETUP),
        ("sglang", check_sglang, SGLANG_SETUP),
        ("devices", check_devices, f"torch does not load: {SETUP}"),
        ("kernels", check_kernels, SETUP),
        ("compiler", check_compiler, ""),
        ("core", check_core, f"the C++ core is not built: {SETUP}"),
        ("index", check_index, "see the line core; else check that the folder for temporary files can be written"),
        ("memory", check_memory, ""),
        ("disk", check_disk, "free some space"),
    )
    return [run_check(name, check, suggestion) for name, check, suggestion in checks]


def check_devices() -> CheckResult:
    """Check which GPUs torch sees."""
    import torch

    if not torch.cuda.is_available():
        detail = f"no GPU: all on the CPU, {torch.get_num_threads()} threads of {os.cpu_count()}"
        if Path("/proc/driver/nvidia").exists():
            return CheckResult("devices", "warning", detail, "there is an NVIDIA driver: install a CUDA build of torch")
        return CheckResult("devices", "ok", detail)
    found = []
    for i in range(torch.cuda.device_count()):
        (free, total), (major, minor) = torch.cuda.mem_get_info(i), torch.cuda.get_device_capability(i)
        size = f"{free / 1e9:.0f} of {total / 1e9:.0f} GB free"
        found.append(f"{torch.cuda.get_device_name(i)} (sm_{major}{minor}, {size})")
    return CheckResult("devices", "ok", "; ".join(found))


def check_kernels() -> CheckResult:
    """Run the log-prob kernel that would be chosen here, and compare it with torch's softmax in float64."""
    import torch

    from aslfast_kernels import linear_logprob
    from aslfast_kernels.arguments import choose_impl

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    hidden_TD, weight_VD = (torch.randn(n, 64, generator=generator).to(device) for n in (8, 1000))
    target_T = torch.arange(8, device=device)
    expected_T = (hidden_TD.double() @ weight_VD.double().T).log_softmax(-1).gather(1, target_T[:, None])[:, 0]
    found_T = linear_logprob(hidden_TD, weight_VD, target_T)
    error = float((found_T - expected_T).abs().max())  # pyright: ignore  # no entropies were asked for
    detail = f"{choose_impl(None, hidden_TD)} on the {device}, log-probs off by {error:.1g}"
    if not error < 1e-3:  # TF32 where torch's own product may use it
        return CheckResult("kernels", "failed", detail, "report it with this output; do not trust loss and log-probs")
    return CheckResult("kernels", "ok", detail)


def check_compiler() -> CheckResult:
    """Check for the tools that build the core; nothing else needs them."""
    missing = [name for name in ("cmake", "c++") if not shutil.which(name)]
    if missing:
        return CheckResult("compiler", "warning", f"{' and '.join(missing)} missing", "needed only to build the core")
    return CheckResult("compiler", "ok", "cmake and c++ are there")


def check_core() -> CheckResult:
    """Check that the C++ core loads."""
    from aslfast import _bm25

    return CheckResult("core", "ok", f"loads; vector instructions: {_bm25.simd_names()[-1]}")


def check_index() -> CheckResult:
    """Build an index of three passages and search it."""
    from aslfast.data.corpus import Passage
    from aslfast.index.bm25 import BM25Index

    contents = {"a": "Oslo\nOslo lies on the Aker.", "b": "Aker\nA river.", "c": "Rome\nFar."}
    passages = [Passage(name, text) for name, text in contents.items()]
    with tempfile.TemporaryDirectory(prefix="aslfast-doctor-") as folder:
        found = BM25Index.build(passages, Path(folder) / "idx", threads=1).search(["the river Aker"], 1).ids
    if found != [["b"]]:
        return CheckResult("index", "failed", f"a search for b found {found}", f"build the core again: {SETUP}")
    return CheckResult("index", "ok", "three passages built and searched")


def check_memory() -> CheckResult:
    """Check the free memory of the machine, or of the container where that has less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    low = free < LOW_MEMORY_GB * 1e9
    suggestion = f"below {LOW_MEMORY_GB} GB even the tiny recipe may not fit with SGLang" if low else ""
    return CheckResult("memory", "warning" if low else "ok", f"{free / 1e9:.1f} GB free", suggestion)


def check_disk() -> CheckResult:
    """Check the free space in the working folder."""
    free = shutil.disk_usage(".").free
    low = free < LOW_DISK_GB * 1e9
    suggestion = "free some space" if low else ""
    return CheckResult("disk", "warning" if low else "ok", f"{free / 1e9:.0f} GB free here", suggestion)
