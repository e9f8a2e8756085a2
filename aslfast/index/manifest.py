"""meta.json of an index: what stands in its folder. Replacing this file is what makes a change of the index happen.

The folder holds a folder of files for every segment (csrc/storage/format.hpp), one file for what is deleted of a segment, the
lock of its writers, and meta.json, which names all of them but the lock. Files that it does not name were left by a
writer that was killed: the next writer removes them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aslfast import _bm25
from aslfast.errors import UserError

FORMAT = "aslfast-bm25"
VERSION = 2
META = "meta.json"
META_PARTIAL = "meta.json.partial"


@dataclass(frozen=True, slots=True)
class Deletions:
    """What is deleted of one segment: a file beside its folder, and the sums over the deleted passages."""

    file: str
    bytes: int
    checksum: str  # hexadecimal, as the other one
    passages: int
    tokens: int
    non_empty: int


@dataclass(frozen=True, slots=True)
class Segment:
    folder: str
    counts: dict[str, int]
    bytes: dict[str, int]  # of each of its files
    checks: str  # checksum of checks.bin, which holds those of all other files
    deleted: Deletions | None

    @property
    def live(self) -> int:
        return self.counts["passages"] - (self.deleted.passages if self.deleted else 0)

    def spec(self, index: Path) -> _bm25.SegmentSpec:
        """As the core wants it."""
        gone = self.deleted
        return {
            "folder": str(index / self.folder),
            "counts": self.counts,
            "checks": int(self.checks, 16),
            "deleted": gone
            and {
                "file": str(index / gone.file),
                "checksum": int(gone.checksum, 16),
                "passages": gone.passages,
                "tokens": gone.tokens,
                "non_empty": gone.non_empty,
            },
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
        return [segment.spec(index) for segment in self.segments]

    def sizes(self) -> dict[str, int]:
        """Bytes of every file it names, by path within the index."""
        sizes = {f"{segment.folder}/{name}": size for segment in self.segments for name, size in segment.bytes.items()}
        return sizes | {gone.file: gone.bytes for segment in self.segments if (gone := segment.deleted)}


def read_manifest(index: Path) -> Manifest:
    """Raises UserError where there is no index, one of another version, or a damaged one."""
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
    """Replaces meta.json in one step, once all it names is on the disk. Raises OSError."""
    for segment in manifest.segments:
        sync_folder(index / segment.folder)
    with (index / META_PARTIAL).open("wb") as file:
        file.write(_to_bytes({"format": FORMAT, "version": VERSION, **asdict(manifest)}))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(index)
    (index / META_PARTIAL).replace(index / META)
    sync_folder(index)


def sync_folder(folder: Path) -> None:
    """The names in it are on the disk after this, as the contents of files are after fsync."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _segment(fields: dict[str, Any]) -> Segment:
    deleted = fields["deleted"]
    return Segment(**{**fields, "deleted": deleted and Deletions(**deleted)})


def _to_bytes(fields: dict[str, Any]) -> bytes:
    """The one way to write these fields, with their checksum: a file that differs in any byte is damaged."""
    rest = {name: value for name, value in fields.items() if name != "checksum"}
    checksum = blake2b(json.dumps(rest).encode(), digest_size=8).hexdigest()
    return (json.dumps({**rest, "checksum": checksum}, indent=2) + "\n").encode()
