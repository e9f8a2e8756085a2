"""Files of JSON lines that people follow while a run writes them, and small files that are whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Adds a line; one that does not fit on the disk is taken back. Raises OSError."""
    line = _line(values).encode()
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(28, "No space left on device")
        except OSError:
            file.truncate(end)
            raise


def rewrite_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Makes the file hold these lines and no others; without any it goes. Raises OSError."""
    text = "".join(map(_line, lines))
    if not text:
        path.unlink(missing_ok=True)
    elif not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A last line without an end is being written, or was when the run was killed: it does not count.

    Raises OSError, and ValueError for what is not JSON.
    """
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line.strip()]


def write_text(path: Path, text: str) -> None:
    """A small file, complete or not at all. Raises OSError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"
