"""One writer of an index at a time, over all processes of a machine. Readers take no lock."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from aslfast.files import lock

LOCK = "writer.lock"


def write_lock(index: Path) -> AbstractContextManager[None]:
    """Held until the block ends or the process does. Raises UserError where another writer holds it, OSError."""
    return lock.hold(index / LOCK, f"{index}: another writer is changing this index; try again when it is done")
