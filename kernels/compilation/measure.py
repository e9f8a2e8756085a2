"""Compile one configuration for sm_90 and read from its machine code what it takes."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .entry import Entry

SHARED_LIMIT = 227 * 1024  # bytes a block can have on sm_90


class Row(NamedTuple):
    """What one configuration takes."""

    name: str
    registers: int
    spills: int  # local-memory loads and stores
    shared_bytes: int
    hgmma: int
    tma_loads: int
    breaches: list[str]


def measure(entry: Entry) -> Row:
    """Return the configuration's row, with what it breaches."""
    cubin, shared = _compile(entry)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        sass = _tool("nvdisasm", "--no-dataflow", "--print-code", file.name)
    counts = {name: len(re.findall(rf"\b{name}\b", sass)) for name in ("STL", "LDL", "HGMMA", "UTMALDG")}
    spills = counts["STL"] + counts["LDL"]
    breaches = [
        *([f"{spills} spills"] if spills else []),
        *(["no HGMMA"] if entry.is_matrix and not counts["HGMMA"] else []),
        *([f"shared memory beyond {SHARED_LIMIT} bytes"] if shared > SHARED_LIMIT else []),
    ]
    registers = int(re.findall(r"REG:(\d+)", usage)[0])
    return Row(entry.name, registers, spills, shared, counts["HGMMA"], counts["UTMALDG"], breaches)


def _compile(entry: Entry) -> tuple[bytes, int]:
    """Return the machine code and its shared memory in bytes."""
    names = entry.kernel.arg_names
    signature = {name: entry.signature.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in entry.constexprs.items()}
    divisible = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if signature[name].startswith("*")
        or (signature[name] == "i32" and not entry.kernel.params[i].do_not_specialize)
    }
    source = ASTSource(entry.kernel, signature, constants, divisible)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=entry.options)
    return compiled.asm["cubin"], compiled.metadata.shared


def _tool(name: str, *arguments: str) -> str:
    """Return the output of a binary tool that is shipped with Triton."""
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout
