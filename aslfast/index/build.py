"""Writing a segment from passages, and a new index of one segment."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aslfast import _bm25
from aslfast.data.corpus_arrow import Batch, Source
from aslfast.errors import UserError
from aslfast.index.index_lock import write_lock
from aslfast.index.manifest import Manifest, Segment, sync_folder, write_manifest
from aslfast.index.options import Effort, Similarity, n_threads

Progress = Callable[[int], None]  # told how many passages are done


def build_index(
    source: Source, out: Path, similarity: Similarity, effort: Effort, progress: Progress | None = None
) -> None:
    """`out` appears complete or not at all. Raises UserError."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: already exists; remove it or choose another place for the index")
    with explain_writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_dead_builds(out)
        partial = _partial(out, os.getpid())
        partial.mkdir()
    try:
        with explain_writing(out), write_lock(partial):
            segment = write_segment(source, partial, "segment-1", similarity, effort, progress)
            if not segment.counts["passages"]:
                raise UserError("no passages; an index needs at least one")
            write_manifest(partial, Manifest(similarity.analyzer, similarity.k1, similarity.b, 1, (segment,)))
            partial.replace(out)
            sync_folder(out.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_segment(
    source: Source,
    index: Path,
    name: str,
    similarity: Similarity,
    effort: Effort,
    progress: Progress | None = None,
    check: Callable[[Batch, int], None] | None = None,
) -> Segment:
    """Writes the folder `name`; `check` sees every batch, with the number of its first passage, after it is added.

    Raises UserError, and OSError where the disk is full.
    """
    folder = index / name
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


def describe_segment(folder: Path, counts: dict[str, int]) -> Segment:
    sizes = {name: (folder / name).stat().st_size for name in _bm25.segment_files()}
    checks = _bm25.checksum(str(folder / _bm25.segment_files()[-1]))
    return Segment(folder.name, counts, sizes, f"{checks:016x}", None)


@contextmanager
def explain_writing(index: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{index}: cannot be written ({reason}); free the space or choose another place") from error


def remove_dead_builds(out: Path) -> None:
    """What builds of `out` have left that were killed."""
    for leftover in out.parent.glob(f".{_escaped(out.name)}.*.partial"):
        found = re.fullmatch(r"(\d+)\.partial", leftover.name[len(out.name) + 2 :])
        if found and not _runs(int(found[1])):
            # Locked: of a container with process numbers of its own. Refused: of another user.
            with suppress(UserError, OSError), write_lock(leftover):
                shutil.rmtree(leftover)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _runs(process: int) -> bool:
    """Whether another process of this number is there. Our own is no answer: containers reuse low numbers."""
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
    """The folder an index is written to before it takes its place: a sibling, so that a rename moves it."""
    return out.with_name(f".{out.name}.{process}.partial")


def _add(builder: _bm25.IndexBuilder, batch: Batch, done: int) -> None:
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
