"""meta.json of an index: what its folder holds. Replacing this file is what makes a change of the index happen.

The folder holds a folder of files for every segment (csrc/storage/format.hpp), one file for the deletions of a segment,
the lock of its writers, and meta.json, which names all of them but the lock. Files that it does not name were left by a
writer that was killed: the next writer removes them.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aslfast import _bm25
from aslfast.errors import UserError
from aslfast.files import lock
from aslfast.files.atomic import atomic_file, fsync_path

FORMAT = "aslfast-bm25"
VERSION = 2
META = "meta.json"
META_PARTIAL = "meta.json.partial"
LOCK = "writer.lock"


@dataclass(frozen=True, slots=True)
class Deletions:
    """The deleted passages of one segment: a file in the index's folder, and sums over them."""

    file: str
    bytes: int
    checksum: str  # hexadecimal, like Segment.checks
    passages: int
    tokens: int
    non_empty: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its folder, what it holds, and what is deleted of it."""

    folder: str
    counts: _bm25.Counts
    bytes: dict[str, int]  # of each of its files
    checks: str  # checksum of checks.bin, which holds those of all other files
    deleted: Deletions | None

    @property
    def live(self) -> int:
        """How many passages are not deleted."""
        return self.counts["passages"] - (self.deleted.passages if self.deleted else 0)

    def spec(self, index: Path) -> _bm25.SegmentSpec:
        """Return the segment as the core takes it."""
        return {
            "folder": str(index / self.folder),
            "counts": self.counts,
            "checks": int(self.checks, 16),
            "deleted": _deleted_spec(index, self.deleted) if self.deleted else None,
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """One generation of an index. Every change makes the next."""

    analyzer: str
    k1: float
    b: float
    generation: int
    segments: tuple[Segment, ...]

    def specs(self, index: Path) -> list[_bm25.SegmentSpec]:
        """Return all segments as the core takes them."""
        return [segment.spec(index) for segment in self.segments]

    def sizes(self) -> dict[str, int]:
        """Return the size of every file that the manifest names, by path within the index."""
        sizes = {f"{segment.folder}/{name}": size for segment in self.segments for name, size in segment.bytes.items()}
        return sizes | {gone.file: gone.bytes for segment in self.segments if (gone := segment.deleted)}


def write_lock(index: Path) -> AbstractContextManager[None]:
    """Hold the lock of an index's writers; readers take none. Raises UserError if it is held already, OSError."""
    return lock.hold(index / LOCK, f"{index}: another writer is changing this index; try again when it is done")


def read_manifest(index: Path) -> Manifest:
    """Read meta.json. Raises UserError where there is no index, one of another version, or a damaged one."""
    path = index / META
    try:
        written = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {index} is not an index: build one there") from error
    try:
        fields = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON; the index is damaged: build it again") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise UserError(f"{path}: its format is not {FORMAT!r}; {index} is not an index of aslfast: build one")
    if fields.get("version") != VERSION:
        raise UserError(f"{path}: version {fields.get('version')}, this aslfast reads {VERSION}: build the index again")
    if written != _to_bytes(fields):
        raise UserError(f"{path}: its checksum is wrong; the index is damaged: build it again")
    return Manifest(
        fields["analyzer"], fields["k1"], fields["b"], fields["generation"], tuple(map(_segment, fields["segments"]))
    )


def write_manifest(index: Path, manifest: Manifest) -> None:
    """Replace meta.json in one step, once all that it names is on the disk. Raises OSError."""
    for segment in manifest.segments:
        fsync_path(index / segment.folder)
    with atomic_file(index / META, index / META_PARTIAL, sync=True) as partial:
        partial.write_bytes(_to_bytes({"format": FORMAT, "version": VERSION, **asdict(manifest)}))


def _deleted_spec(index: Path, deleted: Deletions) -> _bm25.Deleted:
    return {
        "file": str(index / deleted.file),
        "checksum": int(deleted.checksum, 16),
        "passages": deleted.passages,
        "tokens": deleted.tokens,
        "non_empty": deleted.non_empty,
    }


def _segment(fields: dict[str, Any]) -> Segment:
    deleted = fields["deleted"]
    return Segment(**{**fields, "deleted": deleted and Deletions(**deleted)})


def _to_bytes(fields: dict[str, Any]) -> bytes:
    """Return the one way to write these fields, with their checksum: a file that differs in any byte is damaged."""
    rest = {name: value for name, value in fields.items() if name != "checksum"}
    checksum = blake2b(json.dumps(rest).encode(), digest_size=8).hexdigest()
    return (json.dumps({**rest, "checksum": checksum}, indent=2) + "\n").encode()
