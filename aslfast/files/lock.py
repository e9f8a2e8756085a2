"""A lock file that one process of a machine can hold; the lock ends with that process, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aslfast.errors import UserError


@contextmanager
def hold(file: Path, taken: str) -> Iterator[None]:
    """Hold the lock for the block; the file is created. Raises UserError(`taken`) if it is held already, OSError."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(taken) from error
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough: a child forked meanwhile shares the lock
    finally:
        os.close(descriptor)
