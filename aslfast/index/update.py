"""Change an index after its build: write new files, then a new manifest, then remove the files it no longer names.

A kill at any moment leaves the old generation or the new one. An index of more than MAX_SEGMENTS segments merges its
newest ones: a tail in which no segment is larger than those after it together, so that a passage is rewritten only
O(log n) times while an index grows by small additions.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from aslfast import _bm25
from aslfast.data.corpus_batches import PassageBatch, Source
from aslfast.errors import UserError
from aslfast.index.build import Progress, describe_segment, explain_writing, write_segment
from aslfast.index.manifest import (
    META_PARTIAL,
    Deletions,
    Manifest,
    Segment,
    read_manifest,
    write_lock,
    write_manifest,
)
from aslfast.index.options import Effort, Similarity, n_threads
from aslfast.index.snapshot import Snapshot, explain_damage, open_snapshot

MAX_SEGMENTS = 8
MAX_PASSAGES = 2**31 - 1  # deleted ones included: their numbers are int32
OURS = re.compile(rf"segment-\d+(\.deleted-\d+\.bin)?|{re.escape(META_PARTIAL)}")


def add_passages(index: Path, source: Source, effort: Effort, progress: Progress | None = None) -> int:
    """Append a segment; return how many passages it has. Raises UserError, also for an id that is there already."""
    with _change(index) as snapshot:
        manifest = snapshot.manifest
        generation = manifest.generation + 1
        similarity = Similarity(manifest.analyzer, manifest.k1, manifest.b)
        check = _refuse_known_ids(index, snapshot.core, source)
        segment = write_segment(source, index / f"segment-{generation}", similarity, effort, progress, check)
        segments = (*manifest.segments, segment)
        if sum(part.counts["passages"] for part in segments) > MAX_PASSAGES:
            raise UserError(f"{index}: more than {MAX_PASSAGES:,} passages; merge it, or put some into another index")
        if segment.counts["passages"]:
            write_manifest(index, replace(manifest, generation=generation, segments=segments))
        _merge_tail(index, effort.threads)
    return segment.counts["passages"]


def delete_ids(index: Path, ids: Sequence[str]) -> int:
    """Delete all passages of these ids or none; return how many. Raises UserError for an id that is not there."""
    with _change(index) as snapshot:
        docs = np.unique(find_docs(index, snapshot.core, ids))
        if not len(docs):
            return 0
        generation = snapshot.manifest.generation + 1
        segments, first = [], 0
        for segment in snapshot.manifest.segments:
            end = first + segment.counts["passages"]
            inside = docs[(docs >= first) & (docs < end)] - first
            deleted = _delete(index, segment, inside, snapshot.manifest.analyzer, generation)
            segments.append(replace(segment, deleted=deleted))
            first = end
        write_manifest(index, replace(snapshot.manifest, generation=generation, segments=tuple(segments)))
    return len(docs)


def merge_all(index: Path, threads: int) -> None:
    """Merge all live passages into one segment; they get new numbers, in the same order. Raises UserError."""
    with _change(index) as snapshot:
        segments = snapshot.manifest.segments
        if len(segments) > 1 or any(segment.deleted for segment in segments):
            _merge(index, snapshot.manifest, 0, threads)


def find_docs(index: Path, core: _bm25.Index, ids: Sequence[str]) -> np.ndarray:
    """Return the numbers of live passages. Raises UserError for an id that is not there."""
    docs = core.find(list(ids))
    unknown = np.flatnonzero(docs < 0)
    if len(unknown):
        raise UserError(f"{index}: no passage has the id {ids[unknown[0]]!r}; use an id that a search returned")
    return docs


@contextmanager
def _change(index: Path) -> Iterator[Snapshot]:
    """Yield the newest generation under the lock; at the end, remove the files that no longer belong to the index."""
    read_manifest(index)  # raises before a lock file is made in a folder that is not an index
    with explain_writing(index), write_lock(index), explain_damage():
        _remove_unnamed(index)
        try:
            yield open_snapshot(index)
        finally:
            _remove_unnamed(index)


def _remove_unnamed(index: Path) -> None:
    """Remove the files of ours that the manifest does not name."""
    manifest = read_manifest(index)
    named = {name.partition("/")[0] for name in manifest.sizes()}
    for path in index.iterdir():
        if OURS.fullmatch(path.name) and path.name not in named:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _refuse_known_ids(index: Path, core: _bm25.Index, source: Source) -> Callable[[PassageBatch, int], None]:
    """Return a check of every new batch: it raises UserError for an id that the index has already."""

    def check(batch: PassageBatch, done: int) -> None:
        ids = batch.ids if isinstance(batch.ids, list) else batch.ids.to_pylist()
        known = np.flatnonzero(core.find(ids) >= 0)
        if len(known):
            place = source.place(done + int(known[0]))
            raise UserError(f"{place}: id {ids[known[0]]!r} is already in {index}; delete it first, or make ids unique")

    return check


def _delete(index: Path, segment: Segment, docs: np.ndarray, analyzer: str, generation: int) -> Deletions | None:
    """Write the deletions of a segment with these passages (numbers within it) added; return their entry."""
    if not len(docs):
        return segment.deleted
    path = index / f"{segment.folder}.deleted-{generation}.bin"
    gone = _bm25.delete_passages(segment.spec(index), docs.astype(np.uint32), analyzer, str(path))
    return Deletions(
        path.name,
        path.stat().st_size,
        f"{gone['checksum']:016x}",
        gone["passages"],
        gone["tokens"],
        gone["non_empty"],
    )


def _merge_tail(index: Path, threads: int) -> None:
    """Merge the newest segments if there are too many. Raises UserError."""
    manifest = read_manifest(index)
    if len(manifest.segments) <= MAX_SEGMENTS:
        return
    try:
        _merge(index, manifest, tail_to_merge([segment.live for segment in manifest.segments]), threads)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{index}: the passages are added, but merging failed ({reason}); free space, then merge it"
        ) from error


def tail_to_merge(sizes: Sequence[int]) -> int:
    """Return the first of the newest segments to merge: two or more, none larger than those after it together."""
    first, total = len(sizes) - 2, sum(sizes[-2:])
    while first > 0 and sizes[first - 1] <= total:
        first -= 1
        total += sizes[first]
    return first


def _merge(index: Path, manifest: Manifest, first: int, threads: int) -> None:
    """Replace the segments from `first` on by one, or by none if no passage of them is live."""
    generation = manifest.generation + 1
    segments = list(manifest.segments[:first])
    parts = [segment for segment in manifest.segments[first:] if segment.live]
    if parts:
        folder = index / f"segment-{generation}"
        folder.mkdir()
        counts = _bm25.merge_segments(
            [part.spec(index) for part in parts],
            str(folder),
            k1=manifest.k1,
            b=manifest.b,
            threads=n_threads(threads),
        )
        segments.append(describe_segment(folder, counts))
    write_manifest(index, replace(manifest, generation=generation, segments=tuple(segments)))
