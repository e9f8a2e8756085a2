"""BM25 search over a corpus: an index in one folder, built in C++, memory-mapped, shared by all processes of a machine.

Exact BM25 as in Lucene 9, with Lucene's English analysis; the formula is in csrc/search.hpp. We differ from Lucene in
keeping passage lengths exact, where it rounds them to one byte.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aslfast import _bm25
from aslfast.corpus import Passage, as_paths, place_of, read_corpus
from aslfast.errors import UserError

FORMAT = "aslfast-bm25"
VERSION = 1
META = "meta.json"
ANALYZERS = ("english",)
BATCH_PASSAGES = 8192  # analysed together; larger batches gain nothing


def analyze(text: str) -> list[str]:
    """The terms the English analyzer makes of a text, in order."""
    return _bm25.analyze(_without_surrogates(text))


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits of Q queries, best first, ties in corpus order. Unpacks as a pair: `ids, scores = result`.

    Where fewer than k passages match, the row of `ids` is shorter and the arrays end in score 0 and doc -1.
    """

    ids: list[list[str]]
    scores: npt.NDArray[np.float32]  # [Q, k]
    docs: npt.NDArray[np.int32]  # [Q, k], numbers of the passages in corpus order

    def __iter__(self) -> Iterator[Any]:
        return iter((self.ids, self.scores))


class BM25Index:
    """An open index. Make one with `build` or `open`; searching is thread-safe and releases the GIL."""

    def __init__(self, path: Path, meta: dict[str, Any], core: _bm25.Index) -> None:
        self.path = path
        self.meta = meta
        self._core = core

    @classmethod
    def build(
        cls,
        source: str | Path | Iterable[str | Path] | Iterable[Passage],
        out: str | Path,
        *,
        k1: float = 0.9,
        b: float = 0.4,
        analyzer: str = "english",
        threads: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> BM25Index:
        """Indexes corpus files, or passages from anywhere, into the new folder `out` and opens it.

        `threads` 0 means all cores; `progress` is called with the number of passages done so far. `out` appears
        complete or not at all. Raises UserError.
        """
        folder = Path(os.path.abspath(out))
        _check_build(folder, k1, b, analyzer)
        passages, files = _open_source(source)
        try:
            counts = _write_files(passages, files, folder, _n_threads(threads), progress)
            with _explain_writing(folder):
                _write_meta(_partial(folder), {"analyzer": analyzer, "k1": float(k1), "b": float(b), "counts": counts})
                _partial(folder).replace(folder)
        finally:
            shutil.rmtree(_partial(folder), ignore_errors=True)
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | Path) -> BM25Index:
        """Maps an index into memory, after checking every byte of it against its checksums. Raises UserError."""
        folder = Path(path)
        meta = _read_meta(folder)
        try:
            checksums = [int(meta["files"][name]["checksum"], 16) for name in _bm25.file_names()]
            core = _bm25.Index(str(folder), meta["counts"], checksums)
        except ValueError as error:
            raise UserError(f"{error}; the index is damaged: build it again") from error
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; the index is damaged: build it again") from error
        return cls(folder, meta, core)

    def __len__(self) -> int:
        return self.meta["counts"]["passages"]

    def search(self, queries: list[str], k: int = 10, *, threads: int = 0) -> SearchResult:
        """The k best passages for each query; `threads` 0 means all cores. Raises UserError for k < 1."""
        if k < 1:
            raise UserError(f"k is {k}; ask for at least 1 passage")
        if isinstance(queries, str):
            raise TypeError("queries must be a list of str, not one str")
        texts = [_without_surrogates(query) for query in queries]
        ids, scores, docs = self._core.search(texts, k, self.meta["k1"], self.meta["b"], _n_threads(threads))
        return SearchResult(ids, scores, docs)

    def passages(self, ids: list[str]) -> list[Passage]:
        """The passages of these ids, in the order asked for. Raises UserError for an id that is not there."""
        found = self._core.passages([_without_surrogates(id_) for id_ in ids])
        for id_, passage in zip(ids, found, strict=True):
            if passage is None:
                raise UserError(f"{self.path}: no passage has the id {id_!r}; use an id that a search returned")
        return [Passage(*passage) for passage in found if passage]


def _without_surrogates(text: str) -> str:
    """Text that UTF-8 can hold. A model's JSON can spell half a surrogate pair: it becomes "?", which ends a word."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _n_threads(threads: int) -> int:
    if threads < 0:
        raise UserError(f"threads is {threads}; use 0 for all cores, or a number of threads")
    if threads:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_build(folder: Path, k1: float, b: float, analyzer: str) -> None:
    if analyzer not in ANALYZERS:
        raise UserError(f"unknown analyzer {analyzer!r}; use one of {', '.join(ANALYZERS)}")
    if not (math.isfinite(k1) and k1 >= 0):
        raise UserError(f"k1 is {k1}; use a number of at least 0 (0.9 is the default)")
    if not 0 <= b <= 1:
        raise UserError(f"b is {b}; use a number from 0 to 1 (0.4 is the default)")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: already exists; remove it or choose another place for the index")


def _open_source(source: Any) -> tuple[Iterator[Passage], list[Path]]:
    """The passages, and the files they come from if they do."""
    if isinstance(source, (str, Path)):
        return read_corpus(source), as_paths(source)
    items = iter(source)
    first = list(islice(items, 1))
    if first and isinstance(first[0], Passage):
        return chain(first, items), []
    files = as_paths(chain(first, items))
    return read_corpus(files), files


def _partial(folder: Path) -> Path:
    """The folder an index is written to before it takes its place: a sibling, so that a rename moves it."""
    return folder.with_name(f".{folder.name}.{os.getpid()}.partial")


@contextmanager
def _explain_writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{folder}: cannot be written ({reason}); free the space or choose another place") from error


def _write_files(
    passages: Iterator[Passage], files: list[Path], folder: Path, threads: int, progress: Callable[[int], None] | None
) -> dict[str, int]:
    """Writes the binary files; returns how many passages, terms and postings they hold."""
    with _explain_writing(folder):
        _partial(folder).mkdir(parents=True)
        builder = _bm25.IndexBuilder(str(_partial(folder)), threads)
    done = 0
    while batch := list(islice(passages, BATCH_PASSAGES)):
        _add_batch(builder, batch, folder, done)
        done += len(batch)
        if progress:
            progress(done)
    if not done:
        raise UserError("no passages; an index needs at least one")
    try:
        with _explain_writing(folder):
            return builder.finish()
    except KeyError as error:
        id_, *numbers = error.args
        places = [place_of(files, n) if files else f"passage {n + 1}" for n in numbers]
        raise UserError(f"{places[1]}: id {id_!r} is also that of {places[0]}; make ids unique") from error


def _add_batch(builder: _bm25.IndexBuilder, batch: list[Passage], folder: Path, done: int) -> None:
    where = f"passages {done + 1} to {done + len(batch)}"
    try:
        with _explain_writing(folder):
            builder.add([passage.id for passage in batch], [passage.contents for passage in batch])
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {error.object!r:.80} has a lone surrogate; remove that character") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}; correct or split the passage") from error


def _write_meta(folder: Path, settings: dict[str, Any]) -> None:
    files = {}
    for name in _bm25.file_names():
        path = folder / name
        files[name] = {"bytes": path.stat().st_size, "checksum": f"{_bm25.checksum(str(path)):016x}"}
    meta = {"format": FORMAT, "version": VERSION, **settings, "files": files}
    with (folder / META).open("w", encoding="utf-8") as file:
        file.write(json.dumps(meta, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read_meta(folder: Path) -> dict[str, Any]:
    """meta.json, checked. Raises UserError."""
    path = folder / META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {folder} is not an index: build one there") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON; the index is damaged: build it again") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f"{path}: its format is not {FORMAT!r}; {folder} is not an index of aslfast: build one")
    if meta.get("version") != VERSION:
        raise UserError(f"{path}: version {meta.get('version')}, this aslfast reads {VERSION}: build the index again")
    if not _is_sound(meta):
        raise UserError(f"{path}: fields are missing or of a wrong type; the index is damaged: build it again")
    for name, expected in meta["files"].items():
        file = folder / name
        size = file.stat().st_size if file.exists() else None
        if size != expected["bytes"]:
            found = "missing" if size is None else f"{size} bytes"
            raise UserError(f"{file}: {found}, expected {expected['bytes']}; the index is damaged: build it again")
    return meta


def _is_sound(meta: dict[str, Any]) -> bool:
    """Whether the fields that `open` and `search` use are there and of their types."""
    counts, files = meta.get("counts"), meta.get("files")
    if not isinstance(counts, dict) or not isinstance(files, dict) or set(files) != set(_bm25.file_names()):
        return False
    names = ("passages", "terms", "postings", "tokens", "non_empty")
    numbers = [counts.get(name) for name in names] + [f.get("bytes") for f in files.values() if isinstance(f, dict)]
    whole = all(type(number) is int and 0 <= number < 2**62 for number in numbers)
    checksums = all(isinstance(f, dict) and isinstance(f.get("checksum"), str) for f in files.values())
    return whole and checksums and all(isinstance(meta.get(name), (int, float)) for name in ("k1", "b"))
