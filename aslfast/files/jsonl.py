"""Files of JSON lines that people follow while a run appends to them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aslfast.files.atomic import write_text


def append_line(path: Path, values: Mapping[str, object]) -> None:
    """Append a line; one that does not fit on the disk is taken back. Raises OSError."""
    line = _line(values).encode()
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise


def rewrite_lines(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    """Make the file hold exactly these lines, touching it only where it differs; remove it for none. Raises OSError."""
    text = "".join(map(_line, lines))
    if not text:
        path.unlink(missing_ok=True)
    elif not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of the complete lines: a last line without a newline is still being written, or was cut off.

    Raises OSError, and ValueError for what is not JSON.
    """
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line.strip()]


def _line(values: Mapping[str, object]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"
