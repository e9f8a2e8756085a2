"""A lock file that one process of a machine can hold; it ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aslfast.errors import UserError


@contextmanager
def hold(file: Path, taken: str) -> Iterator[None]:
    """Held until the block ends or the process does. Raises UserError(`taken`) where another holds it, OSError."""
    number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(taken) from error
        try:
            yield
        finally:
            fcntl.flock(number, fcntl.LOCK_UN)  # a child forked meanwhile holds the same lock: closing would not end it
    finally:
        os.close(number)
