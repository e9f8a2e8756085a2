"""Every shipped kernel configuration compiled for sm_90, without a GPU: `python -m aslfast_kernels.compile_report`.

Prints registers, spills, shared memory, HGMMA (Hopper's tensor-core instruction) and UTMALDG (its bulk copy) counts,
read from the machine code. Exit code 1 on a breach: a spill, a matrix kernel without HGMMA, shared memory beyond what
a block can have. Registers are shown but not judged: they differ between compiler versions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

SHARED_LIMIT = 227 * 1024  # bytes a block can have on sm_90


class Entry(NamedTuple):
    """One configuration. signature: run-time arguments by name; pointers and sizes are taken as
    divisible by 16 unless the kernel says do_not_specialize."""

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    options: dict[str, int]  # num_warps, num_stages
    is_matrix: bool = False


class Row(NamedTuple):
    name: str
    registers: int
    spills: int  # local-memory loads and stores
    shared_bytes: int
    hgmma: int
    tma_loads: int
    breaches: list[str]


def shipped() -> list[Entry]:
    """The table of all kernels."""
    from . import compile_losses, logprob_head_kernels, logprob_logits_kernels

    logprob = [*logprob_head_kernels.compile_entries(), *logprob_logits_kernels.compile_entries()]
    return [*logprob, *compile_losses.advantage_entries(), *compile_losses.policy_loss_entries()]


def measure(entry: Entry) -> Row:
    cubin, shared = _compile(entry)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = _tool("cuobjdump", "-res-usage", file.name), _tool("nvdisasm", "-c", file.name)
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
    """The machine code and its shared memory in bytes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

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
    """Output of a binary tool that is shipped with Triton."""
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def _table(rows: list[Row]) -> str:
    lines = ["| configuration | registers | spills | shared KiB | HGMMA | UTMALDG | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row.name, row.registers, row.spills, f"{row.shared_bytes / 1024:.0f}", row.hgmma, row.tma_loads]
        lines.append(f"| {' | '.join(map(str, cells))} | {', '.join(row.breaches) or 'ok'} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m aslfast_kernels.compile_report", description=__doc__)
    parser.add_argument("--json", action="store_true", help="JSON instead of a Markdown table")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 replaces the compiler by an interpreter: unset it")
    rows = [measure(entry) for entry in shipped()]
    print(json.dumps([row._asdict() for row in rows], indent=1) if options.json else _table(rows))
    return 1 if any(row.breaches for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
