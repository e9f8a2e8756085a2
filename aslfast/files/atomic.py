"""Write and rename: a file or folder appears under its name complete or not at all.

It is written to a partial in the same folder, and a rename makes it the target. An error removes the partial. A process
that is killed leaves it behind; the next write of the same target overwrites it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_of(path: Path) -> Path:
    """Return where `path` is written before it gets its name: a sibling, so that a rename can move it."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def atomic_file(path: Path, partial: Path | None = None, sync: bool = False) -> Iterator[Path]:
    """Yield the path to write to; at the end of the block that file replaces `path`. Raises OSError.

    sync: a power failure leaves the old file or the new one, with all names that the folder had before the rename.
    """
    partial = partial or partial_of(path)
    try:
        yield partial
        if sync:
            fsync_path(partial)
            fsync_path(path.parent)  # the new file may refer to others in its folder: their names first
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if sync:
        fsync_path(path.parent)


@contextmanager
def atomic_folder(path: Path, partial: Path | None = None, sync: bool = False) -> Iterator[Path]:
    """Yield a new folder to fill; at the end of the block it becomes `path`, which is missing or an empty folder.

    A `partial` that the caller names must not exist: FileExistsError. sync: the new name survives a power failure; the
    caller syncs what is in the folder. Raises OSError.
    """
    if partial is None:
        partial = partial_of(path)
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
        if sync:
            fsync_path(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file, complete or not at all. Raises OSError."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def fsync_path(path: Path) -> None:
    """Flush a file's contents, or the names in a folder, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
