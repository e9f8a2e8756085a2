"""The doctor's checks of versions: which releases of torch, triton, SGLang and transformers go together."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from aslfast.trainer.preflight.check import CheckResult

SETUP = "run make setup"
PYTHONS = ((3, 10), (3, 13))  # first and last
USE_PYTHON = "use Python 3.10, 3.11, 3.12 or 3.13"
SGLANG_SETUP = "run make setup-sglang (CPU) or pip install 'aslfast[sglang]' (GPU)"


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


def installed(package: str) -> str | None:
    """Return the installed version of a package; None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def release(text: str) -> tuple[int, ...]:
    """Return the release of a version: 0.5.12.post1+cu130 -> (0, 5, 12)."""
    parts = text.split("+")[0].split(".")
    return tuple(int(part) for part in parts[:3] if part.isdecimal())


def stack_of(torch: str) -> Stack | None:
    """Return the stack of a torch version; None where it is not known."""
    return next((stack for stack in STACKS if release(stack.torch) == release(torch)[:2]), None)


def check_python() -> CheckResult:
    """Check the version of Python."""
    found = platform.python_version()
    fits = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    return CheckResult("python", "ok" if fits else "failed", found, "" if fits else USE_PYTHON)


def check_versions() -> CheckResult:
    """Check torch and the packages that must fit it."""
    found = {name: installed(name) for name in ("torch", "triton", "transformers", "peft")}
    detail = ", ".join(f"{name} {found[name] or 'missing'}" for name in found)
    needed = ["torch", "transformers", "peft"]
    if missing := [name for name in needed if not found[name]]:
        return CheckResult("versions", "failed", detail, f"{', '.join(missing)} missing: {SETUP}")
    stack = stack_of(str(found["torch"]))
    if stack is None:
        known = ", ".join(stack.torch for stack in STACKS)
        return CheckResult("versions", "warning", detail, f"not tested with this torch; tested are {known}")
    if found["triton"] and release(found["triton"])[:2] != release(stack.triton):
        return CheckResult("versions", "warning", detail, f"torch {stack.torch} goes with triton {stack.triton}")
    return CheckResult("versions", "ok", detail)


def check_sglang() -> CheckResult:
    """Check that SGLang fits torch and transformers."""
    found, torch = installed("sglang"), installed("torch")
    if not found:
        return CheckResult("sglang", "warning", "not installed: sampler.kind=local alone works", SGLANG_SETUP)
    stack = stack_of(torch or "0")
    if stack is None:
        return CheckResult("sglang", "warning", found, f"not tested with torch {torch}")
    first, last = stack.sglang
    if not release(first) <= release(found) <= release(last):
        fitting = f"this torch goes with sglang {first} to {last}"
        return CheckResult("sglang", "warning", f"{found} with torch {torch}", fitting)
    transformers = installed("transformers")
    if transformers and release(transformers)[:2] > release(stack.transformers):
        fitting = f"sglang {found} goes with transformers up to {stack.transformers}"
        return CheckResult("sglang", "warning", f"{found} with transformers {transformers}", fitting)
    return CheckResult("sglang", "ok", f"{found}, made for torch {stack.torch}")
