"""Build a segment from passages, and a new index of one segment."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from aslfast import _bm25
from aslfast.data.corpus_batches import PassageBatch, Source
from aslfast.errors import UserError
from aslfast.files.atomic import atomic_folder
from aslfast.index.manifest import Manifest, Segment, write_lock, write_manifest
from aslfast.index.options import Effort, Similarity, n_threads

Progress = Callable[[int], None]  # called with the number of passages done so far


def build_index(
    source: Source, out: Path, similarity: Similarity, effort: Effort, progress: Progress | None = None
) -> None:
    """Build an index; `out` appears complete or not at all. Raises UserError."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: already exists; remove it or choose another place for the index")
    with explain_writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_dead_builds(out)
        # the lock is released after the rename: remove_dead_builds of another process must not take the partial away
        with ExitStack() as locked, atomic_folder(out, _partial(out, os.getpid()), sync=True) as partial:
            locked.enter_context(write_lock(partial))
            segment = write_segment(source, partial / "segment-1", similarity, effort, progress)
            if not segment.counts["passages"]:
                raise UserError("no passages; an index needs at least one")
            write_manifest(partial, Manifest(similarity.analyzer, similarity.k1, similarity.b, 1, (segment,)))


def write_segment(
    source: Source,
    folder: Path,
    similarity: Similarity,
    effort: Effort,
    progress: Progress | None = None,
    check: Callable[[PassageBatch, int], None] | None = None,
) -> Segment:
    """Write a segment into the new `folder`.

    `check` gets every batch after it is added, with the number of its first passage. Raises UserError, and OSError
    where the disk is full.
    """
    folder.mkdir()
    builder = _bm25.IndexBuilder(
        str(folder),
        analyzer=similarity.analyzer,
        k1=similarity.k1,
        b=similarity.b,
        threads=n_threads(effort.threads),
        memory_bytes=effort.memory_mb << 20,
    )
    done = 0
    for batch in source.batches:
        _add(builder, batch, done)
        if check:
            check(batch, done)
        done += len(batch)
        if progress:
            progress(done)
    return _finish(builder, source, folder)


def describe_segment(folder: Path, counts: _bm25.Counts) -> Segment:
    """Return the manifest's entry of a segment that has just been written. Raises OSError."""
    sizes = {name: (folder / name).stat().st_size for name in _bm25.segment_files()}
    checks = _bm25.checksum(str(folder / _bm25.segment_files()[-1]))
    return Segment(folder.name, counts, sizes, f"{checks:016x}", None)


@contextmanager
def explain_writing(index: Path) -> Iterator[None]:
    """Turn an OSError of the block into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{index}: cannot be written ({reason}); free the space or choose another place") from error


def remove_dead_builds(out: Path) -> None:
    """Remove the partials of builds of `out` whose process is gone."""
    for leftover in out.parent.glob(f".{_escaped(out.name)}.*.partial"):
        found = re.fullmatch(r"(\d+)\.partial", leftover.name[len(out.name) + 2 :])
        if found and not _runs(int(found[1])):
            # UserError: locked by a container with process numbers of its own. OSError: another user's.
            with suppress(UserError, OSError), write_lock(leftover):
                shutil.rmtree(leftover)


def _escaped(name: str) -> str:
    """Return a glob pattern that matches just this name."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _runs(process: int) -> bool:
    """Return whether another process has this number. Our own number tells nothing: containers reuse low ones."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _partial(out: Path, process: int) -> Path:
    """Return the folder that a process builds `out` in."""
    return out.with_name(f".{out.name}.{process}.partial")


def _add(builder: _bm25.IndexBuilder, batch: PassageBatch, done: int) -> None:
    where = f"passages {done + 1} to {done + len(batch)}"
    try:
        if isinstance(batch.ids, list):
            builder.add(batch.ids, batch.contents)
        else:
            builder.add_arrow(batch.ids, batch.contents)
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {error.object!r:.80} has a lone surrogate; remove that character") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}; correct or split the passage") from error


def _finish(builder: _bm25.IndexBuilder, source: Source, folder: Path) -> Segment:
    try:
        return describe_segment(folder, builder.finish())
    except KeyError as error:
        id_, first, second = error.args
        places = source.place(second), source.place(first)
        raise UserError(f"{places[0]}: id {id_!r} is also that of {places[1]}; make ids unique") from error
