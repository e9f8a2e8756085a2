"""Check what docs/start/h100.md needs, before it is needed: system, GPU, memory, disk, packages, ports.

    python examples/from_nothing/check.py --work .

A line for each; exit code 1 if one fails. Changes nothing, fetches nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

Check = tuple[str, bool, str, str]  # what, whether it holds, what was found, what to do
PYTHONS = ((3, 10), (3, 13))
GLIBC = (2, 28)
DRIVER = 580  # the first of CUDA 13, for which SGLang's packages are built
PACKAGES = ("aslfast", "aslfast_kernels", "torch", "transformers", "peft", "sglang")
PORTS = (8000, 8008, 30000)


def main() -> None:
    asked = arguments()
    failed = 0
    for what, holds, found, remedy in checks(asked):
        print(f"{'ok  ' if holds else 'FAIL'} {what}: {found}{'' if holds else '; ' + remedy}")
        failed += not holds
    print("ready" if not failed else f"{failed} to mend")
    sys.exit(1 if failed else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(), help="folder that everything is written to")
    parser.add_argument("--disk-gb", type=float, default=120)
    parser.add_argument("--ram-gb", type=float, default=64)
    parser.add_argument("--gpu-gb", type=float, default=79)
    parser.add_argument("--packages", nargs="*", default=PACKAGES)
    parser.add_argument("--ports", nargs="*", type=int, default=PORTS)
    return parser.parse_args()


def checks(asked: argparse.Namespace) -> Iterator[Check]:
    yield system()
    yield python()
    yield libc()
    yield from gpu(asked.gpu_gb)
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    yield "memory", ram >= asked.ram_gb, f"{ram:.0f} GB", f"the index wants {asked.ram_gb:.0f} GB to stay in memory"
    free = shutil.disk_usage(asked.work).free / 1e9
    yield "disk", free >= asked.disk_gb, f"{free:.0f} GB free", f"{asked.disk_gb:.0f} GB are needed in {asked.work}"
    missing = [name for name in asked.packages if find_spec(name) is None]
    yield "packages", not missing, f"missing: {missing}" if missing else "all", "pip install 'aslfast[sglang]'"
    yield "hf", bool(shutil.which("hf")), shutil.which("hf") or "not found", "pip install huggingface_hub"
    busy = [port for port in asked.ports if not is_free(port)]
    yield "ports", not busy, f"in use: {busy}" if busy else "free", "choose others with --port"


def system() -> Check:
    found = f"{platform.system()} {platform.machine()}"
    return "system", found == "Linux x86_64", found, "the wheels are for Linux on x86-64"


def python() -> Check:
    holds = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    return "Python", holds, platform.python_version(), "take one from 3.10 to 3.13"


def libc() -> Check:
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return "glibc", name == "glibc" and numbers >= GLIBC, f"{name} {version}", "2.28 or later is needed"


def gpu(wanted_gb: float, ask: Callable[[], str | None] | None = None) -> Iterator[Check]:
    """Yield what nvidia-smi says of memory and driver."""
    said = (ask or ask_nvidia_smi)()
    if said is None:
        yield "GPU", False, "nvidia-smi does not answer", "install NVIDIA's driver"
        return
    name, memory_mib, driver = (part.strip() for part in said.splitlines()[0].split(","))
    memory = float(memory_mib) * 2**20 / 1e9
    yield "GPU", memory >= wanted_gb, f"{name}, {memory:.0f} GB", "a smaller one: aslfast plan --gpu SIZE"
    yield "driver", int(driver.split(".")[0]) >= DRIVER, driver, f"{DRIVER} or later is needed for CUDA 13"


def ask_nvidia_smi() -> str | None:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 and done.stdout.strip() else None


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    main()
