"""Open an index: its manifest, and the core's view of the files in it. Nothing is locked and nothing is read ahead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aslfast import _bm25
from aslfast.errors import UserError
from aslfast.index.manifest import Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One generation, mapped into memory: it stays readable after a writer has replaced it and removed its files."""

    manifest: Manifest
    core: _bm25.Index


def open_snapshot(index: Path) -> Snapshot:
    """Open the newest generation. Raises UserError."""
    manifest = read_manifest(index)
    while True:
        try:
            return _open(index, manifest)
        except UserError:  # a writer has removed files since, or a file is damaged
            newest = read_manifest(index)
            if newest.generation == manifest.generation:
                raise
            manifest = newest


@contextmanager
def explain_reading(index: Path) -> Iterator[None]:
    """Turn the core's errors about files, when they are opened or a page is first used, into UserErrors."""
    try:
        with explain_damage():
            yield
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: missing; the index is damaged: build it again") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{error.filename or index}: cannot be read ({reason}); check the file") from error


@contextmanager
def explain_damage() -> Iterator[None]:
    """Turn the core's ValueError about a damaged file into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{error}; the index is damaged: build it again") from error


def _open(index: Path, manifest: Manifest) -> Snapshot:
    with explain_reading(index):
        for name, expected in manifest.sizes().items():
            size = (index / name).stat().st_size
            if size != expected:
                raise ValueError(f"{index / name}: {size} bytes, expected {expected}")
        core = _bm25.Index(manifest.specs(index), analyzer=manifest.analyzer, k1=manifest.k1, b=manifest.b)
        return Snapshot(manifest, core)
