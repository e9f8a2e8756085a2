"""One writer of an index at a time, over all processes of a machine. Readers take no lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aslfast.errors import UserError

LOCK = "writer.lock"


@contextmanager
def write_lock(index: Path) -> Iterator[None]:
    """Held until the block ends or the process does. Raises UserError where another writer holds it, OSError."""
    number = os.open(index / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{index}: another writer is changing this index; try again when it is done") from error
        try:
            yield
        finally:
            fcntl.flock(number, fcntl.LOCK_UN)  # a child forked meanwhile holds the same lock: closing would not end it
    finally:
        os.close(number)
