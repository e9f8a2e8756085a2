"""Checksums of files; of those that a ledger names also the size: taken on the disk, compared on recovery."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import BinaryIO

from aslfast.files.atomic import fsync_path

READ_BYTES = 1 << 20  # read at once


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The size and checksum of a file when it was stored."""

    bytes: int
    checksum: str  # BLAKE2b, hexadecimal


def store(root: Path, paths: Iterable[Path]) -> dict[str, StoredFile]:
    """Sync written files, or all files of folders; return them by their path within `root`. Raises OSError.

    They have their final names already. That is safe: no reader looks at them before a commit names them, and no name
    is written twice.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    stored = {file.relative_to(root).as_posix(): _synced(file) for file in files if file.is_file()}
    folders = {folder for file in files for folder in file.parents if folder == root or root in folder.parents}
    for folder in folders:
        fsync_path(folder)
    return stored


def damage(path: Path, stored: StoredFile, whole: bool = True) -> str | None:
    """Return what is wrong with a file, None if it is as it was stored. Without `whole`, only the size is compared."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != stored.bytes:
                return f"{size} bytes, expected {stored.bytes}"
            if whole and _checksum(file) != stored.checksum:
                return "its checksum is wrong"
    except OSError as error:
        return error.strerror or str(error)
    return None


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal, as `sha256sum` prints it. Raises OSError."""
    digest = new_sha256()
    with file.open("rb") as opened:
        while part := opened.read(READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _synced(path: Path) -> StoredFile:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return StoredFile(os.fstat(file.fileno()).st_size, _checksum(file))


def _checksum(file: BinaryIO) -> str:
    digest = blake2b(digest_size=16)
    while part := file.read(READ_BYTES):
        digest.update(part)
    return digest.hexdigest()
