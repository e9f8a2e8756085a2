"""Read a corpus: JSONL or Parquet files of passages {"id", "contents"}, streamed, with errors that name the place.

`contents` is the title in quotes, a newline, then the text: the form Search-R1 and its followers use (wiki-18). DPR's
TSV (psgs_w100.tsv: columns id, text, title under a header line) is read into that form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aslfast.data.tables import named, read_table
from aslfast.errors import UserError
from aslfast.files.text import decode

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
FIELDS = ("id", "contents")
BATCH_ROWS = 4096  # rows of a Parquet file in memory at once


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of a corpus. `contents` without a newline has no title."""

    id: str
    contents: str

    @property
    def title(self) -> str:
        """The title without the quotes around it, empty if there is none; quotes of its own stay."""
        first, newline, _ = self.contents.partition("\n")
        first = first.strip() if newline else ""
        return first[1:-1] if len(first) > 1 and first[0] == first[-1] == '"' else first

    @property
    def text(self) -> str:
        """The contents without the title."""
        first, newline, rest = self.contents.partition("\n")
        return rest if newline else first


def as_paths(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]


def read_corpus(paths: str | Path | Iterable[str | Path]) -> Iterator[Passage]:
    """Stream the passages of the files in order; ids may be strings or integers. Raises UserError.

    Duplicate ids are found when an index is built, not here.
    """
    files = as_paths(paths)
    check_files(files)
    return (passage for _, passage in _read_files(files))


def place_of(paths: Iterable[Path], number: int) -> str:
    """Return where the passage of this number (from 0) is, as "file:line" or "file row n"."""
    place, _ = next(islice(_read_files(paths), number, None))
    return place


def check_files(files: list[Path]) -> None:
    """Raise UserError unless all are files of a known kind, at least one."""
    if not files:
        raise UserError("no corpus file was given; name at least one .jsonl, .parquet or .tsv file")
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: no such file; check the path of the corpus")
        if file.is_dir():
            raise UserError(f"{file}: is a folder; name the .jsonl, .parquet or .tsv files in it")
        if file.suffix.lower() not in _READERS:
            raise UserError(f"{file}: unknown kind of corpus {file.suffix!r}; use a .jsonl, .parquet or .tsv file")


def each_file(files: Iterable[Path], readers: Mapping[str, Callable[[Path], Iterator[T]]]) -> Iterator[T]:
    """Stream the items of all files, each by the reader of its suffix. Raises UserError, also if there are none."""
    empty = True
    names = []
    for file in files:
        names.append(str(file))
        try:
            for item in readers[file.suffix.lower()](file):
                empty = False
                yield item
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error}); check the file") from error
    if empty:
        raise UserError(f"{', '.join(names)}: no passages; an index needs at least one")


def parse_lines(file: Path, lines: Iterable[bytes], first: int = 1) -> Iterator[tuple[str, Passage]]:
    """Stream (place, passage) for lines of a JSONL file, numbered from `first`; blank lines are skipped."""
    for number, line in enumerate(lines, start=first):
        place = f"{file}:{number}"
        text = decode(line, place)
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise UserError(f"{place}: not JSON ({reason}); every line must be one JSON object") from error
        yield place, _to_passage(place, record)


def parse_rows(file: Path, rows: pa.RecordBatch, first: int) -> Iterator[tuple[str, Passage]]:
    """Stream (place, passage) for rows of a Parquet file, numbered from `first`."""
    try:
        records = rows.to_pylist()
    except UnicodeDecodeError as error:
        where = f"{file} after row {first - 1}"
        raise UserError(f"{where}: not valid UTF-8; write the columns as UTF-8 strings") from error
    for number, record in enumerate(records, start=first):
        yield f"{file} row {number}", _to_passage(f"{file} row {number}", record)


def read_row_batches(file: Path, batch_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Stream (number of the first row, from 1; rows) of a Parquet file, with those columns of a passage that it has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = 1
    try:
        with pq.ParquetFile(file) as parquet:
            columns = [name for name in FIELDS if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_rows, columns=columns):
                yield first, batch
                first += len(batch)
    except (pa.ArrowException, OSError) as error:
        where, reason = f"{file} after row {first - 1}", str(error).splitlines()[0]
        raise UserError(f"{where}: not a readable Parquet file ({reason}); write it again") from error


def _read_files(files: Iterable[Path]) -> Iterator[tuple[str, Passage]]:
    return each_file(files, _READERS)


def _read_jsonl(file: Path) -> Iterator[tuple[str, Passage]]:
    with file.open("rb") as lines:
        yield from parse_lines(file, lines)


def _read_parquet(file: Path) -> Iterator[tuple[str, Passage]]:
    for first, rows in read_row_batches(file, BATCH_ROWS):
        yield from parse_rows(file, rows, first)


def read_tsv(file: Path) -> Iterator[tuple[str, Passage]]:
    """Stream (place, passage) for the lines of DPR's TSV, with title and text as `contents`."""
    table = read_table(file, "\t")
    names = next(table, (0, []))[1]
    for number, fields in table:
        place = f"{file}:{number}"
        row = named(names, fields, place)
        if "text" not in row or "title" not in row:
            raise UserError(f"{place}: 'text' or 'title' is missing; the first line names id, text and title")
        yield place, _to_passage(place, {"id": row.get("id"), "contents": f'"{row["title"]}"\n{row["text"]}'})


_READERS = {".jsonl": _read_jsonl, ".parquet": _read_parquet, ".tsv": read_tsv}


def _to_passage(place: str, record: object) -> Passage:
    if not isinstance(record, dict):
        raise UserError(f"{place}: a {type(record).__name__}, not an object; write {{'id': ..., 'contents': ...}}")
    for name in FIELDS:
        if record.get(name) is None:
            raise UserError(f"{place}: field {name!r} is missing; every passage needs 'id' and 'contents'")
    id_ = record["id"]
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    passage = Passage(_to_text(place, "id", id_), _to_text(place, "contents", record["contents"]))
    if not passage.id:
        raise UserError(f"{place}: field 'id' is empty; give every passage an id of its own")
    return passage


def _to_text(place: str, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: field {name!r} is a {type(value).__name__}; make it a string")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
            where = f"{place}: field {name!r}"
            raise UserError(f"{where} has a lone surrogate at {error.start}; remove that character") from error
    return value
