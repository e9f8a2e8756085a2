"""The work of `aslfast model`: a GGUF file in, a Hugging Face model folder out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aslfast.checkpoint.run_dir import check_new_run_dir
from aslfast.cli.progress import printable, quiet_libraries
from aslfast.config.schema import DTYPES
from aslfast.errors import UserError
from aslfast.models.from_gguf.sources import find_source


def make_model(given: str, out: Path, dtype: str) -> dict[str, Any]:
    """Convert a known name, a GGUF file or a wheel to a new folder; return a summary. Raise UserError, OSError."""
    started = time.perf_counter()
    if dtype not in DTYPES:
        raise UserError(f"--dtype is {dtype!r}; use one of {', '.join(DTYPES)}")
    check_new_run_dir(out)
    source = find_source(given)  # before the libraries: what is missing is said at once

    from aslfast.models.from_gguf.convert import convert

    quiet_libraries()
    record = convert(source, out, dtype)
    size = sum(file.stat().st_size for file in out.iterdir())
    return {"out": str(out), "bytes": size, "seconds": round(time.perf_counter() - started, 2), **record}


def print_model(summary: Mapping[str, Any]) -> None:
    """Print what was written, and the checksum of the weights."""
    numbers = f"{summary['parameters']:,} parameters in {summary['dtype']}, {summary['bytes'] / 1e6:,.1f} MB"
    origin = printable(f"from {summary['gguf']}, licence {summary['licence'] or 'not named'}")
    print(f"{summary['out']}: {numbers}, {origin}, in {summary['seconds']:.1f} s")
    print(f"weights sha256 {summary['weights_sha256']}")
