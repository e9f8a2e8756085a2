"""Compile one configuration for one compute capability and read from its machine code what it takes."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..cards import CARDS
from .entry import Entry

# The tensor cores' instructions: mma.sync, Hopper's wgmma, and Blackwell's tcgen05
PRODUCTS = {90: "HGMMA", 100: "UTCHMMA", 103: "UTCHMMA"}
MMA_SYNC = "HMMA"


class Row(NamedTuple):
    """What one configuration takes. Where it does not compile, nothing, and a breach says so."""

    arch: str
    name: str
    registers: int
    spills: int  # local-memory loads and stores
    shared_bytes: int
    products: int  # instructions of the tensor cores
    tma_loads: int
    breaches: list[str]


def measure(capability: int, entry: Entry) -> Row:
    """Return the configuration's row, with what it breaches."""
    arch = f"sm_{capability}"
    try:
        cubin, shared = _compile(capability, entry)
    except Exception as error:  # whatever the compiler raises is a finding
        reason = str(error).strip().splitlines() or [""]
        return Row(arch, entry.name, 0, 0, 0, 0, 0, [f"does not compile: {type(error).__name__} {reason[0]}"])
    usage, sass = _disassemble(cubin)
    product = PRODUCTS.get(capability, MMA_SYNC)
    counts = {name: len(re.findall(rf"\b{name}\b", sass)) for name in ("STL", "LDL", product, "UTMALDG")}
    spills, limit = counts["STL"] + counts["LDL"], CARDS[capability].shared_bytes
    breaches = [
        *([f"{spills} spills"] if spills else []),
        *([f"no {product}"] if entry.is_matrix and not counts[product] else []),
        *([f"shared memory beyond {limit} bytes"] if shared > limit else []),
    ]
    registers = int(re.findall(r"REG:(\d+)", usage)[0])
    return Row(arch, entry.name, registers, spills, shared, counts[product], counts["UTMALDG"], breaches)


def _compile(capability: int, entry: Entry) -> tuple[bytes, int]:
    """Return the machine code and its shared memory in bytes."""
    names = entry.kernel.arg_names
    signature = {name: entry.signature.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in entry.constexprs.items()}
    divisible = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if _is_divisible(entry, i, name)}
    source = ASTSource(entry.kernel, signature, constants, divisible)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=entry.options)
    return compiled.asm["cubin"], compiled.metadata.shared


def _is_divisible(entry: Entry, index: int, name: str) -> bool:
    """Return whether the compiler is told that the argument is divisible by 16, as a launch would tell it."""
    kind = entry.signature.get(name, "constexpr")
    is_size = kind == "i32" and not entry.kernel.params[index].do_not_specialize
    return name not in entry.ragged and (is_size or kind.startswith("*"))


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """Return what the machine code says that it uses, and its instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return (
            _tool("cuobjdump", "-res-usage", file.name),
            _tool("nvdisasm", "--no-dataflow", "--print-code", file.name),
        )


def _tool(name: str, *arguments: str) -> str:
    """Return the output of a binary tool that is shipped with Triton."""
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout
