"""Files that a ledger names: on the disk for good, with size and checksum to tell whether they still are whole."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from aslfast.index.manifest import sync_folder

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredFile:
    bytes: int
    checksum: str  # BLAKE2b, hexadecimal


def store(root: Path, paths: Iterable[Path]) -> dict[str, StoredFile]:
    """Puts written files, or all files of folders, on the disk for good; by name within `root`. Raises OSError.

    They have their final names already. That is no risk: until a commit names them they are nobody's, and a name is
    never written twice.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    stored = {file.relative_to(root).as_posix(): _synced(file) for file in files if file.is_file()}
    folders = {folder for file in files for folder in file.parents if folder == root or root in folder.parents}
    for folder in folders:
        sync_folder(folder)
    return stored


def damage(path: Path, stored: StoredFile, whole: bool = True) -> str | None:
    """What is wrong with a file; None if it is as it was stored. Not `whole`: by its size alone, without reading it."""
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


def _synced(path: Path) -> StoredFile:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return StoredFile(os.fstat(file.fileno()).st_size, _checksum(file))


def _checksum(file: BinaryIO) -> str:
    digest = blake2b(digest_size=16)
    while part := file.read(READ_BYTES):
        digest.update(part)
    return digest.hexdigest()
