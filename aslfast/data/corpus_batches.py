"""A corpus in batches for the index builder: JSON by msgspec, Parquet as Arrow arrays, without a string a passage.

Both are faster than corpus.py and stop at other things. A batch that they refuse, or may read differently, is read
again by corpus.py, which decides what is valid and says what is wrong. Only Parquet loads pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np

from aslfast.data.corpus import (
    Passage,
    as_paths,
    check_files,
    each_file,
    parse_lines,
    parse_rows,
    place_of,
    read_row_batches,
    read_tsv,
)

if TYPE_CHECKING:
    import pyarrow as pa

AnySource: TypeAlias = str | Path | Iterable[str | Path] | Iterable[Passage]
BATCH_PASSAGES = 8192  # larger batches gain nothing
BLOCK_BYTES = 8 << 20  # of a JSONL file, parsed at once


class _Row(msgspec.Struct, frozen=True, gc=False):
    """What is read of a line: other types, and lines without these fields, are corpus.py's to judge."""

    id: str | int
    contents: str


_ROWS = msgspec.json.Decoder(_Row)


@dataclass(frozen=True, slots=True)
class PassageBatch:
    """Some passages: two lists of str, or two Arrow arrays of strings without nulls."""

    ids: list[str] | pa.Array
    contents: list[str] | pa.Array

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Source:
    """Passages to index, and the files that they come from, if any."""

    batches: Iterator[PassageBatch]
    files: list[Path]

    def place(self, number: int) -> str:
        """Return where the passage of this number (from 0) came from, for messages."""
        return place_of(self.files, number) if self.files else f"passage {number + 1}"


def open_source(source: AnySource) -> Source:
    """Open a corpus: a path, several paths, or passages. Raises UserError."""
    if isinstance(source, (str, Path)):
        return _file_source(as_paths(source))
    items: Iterator[Any] = iter(source)  # all passages or all paths
    first = list(islice(items, 1))
    if not first or isinstance(first[0], Passage):
        return Source(_batched(chain(first, items)), [])
    return _file_source(as_paths(chain(first, items)))


def _file_source(files: list[Path]) -> Source:
    check_files(files)
    readers = {".jsonl": _jsonl_batches, ".parquet": _parquet_batches, ".tsv": _tsv_batches}
    return Source(each_file(files, readers), files)


def _batched(passages: Iterable[Passage]) -> Iterator[PassageBatch]:
    items = iter(passages)
    while group := list(islice(items, BATCH_PASSAGES)):
        yield PassageBatch([passage.id for passage in group], [passage.contents for passage in group])


def _parquet_batches(file: Path) -> Iterator[PassageBatch]:
    for first, rows in read_row_batches(file, BATCH_PASSAGES):
        plain = _plain(rows)
        if plain:
            yield plain
        else:
            yield from _batched(passage for _, passage in parse_rows(file, rows, first))


def _tsv_batches(file: Path) -> Iterator[PassageBatch]:
    return _batched(passage for _, passage in read_tsv(file))


def _jsonl_batches(file: Path) -> Iterator[PassageBatch]:
    number = 1
    with file.open("rb") as lines:
        while block := lines.read(BLOCK_BYTES):
            block += lines.readline()
            plain = _plain_block(block)
            if plain:
                yield plain
            else:
                yield from _batched(passage for _, passage in parse_lines(file, BytesIO(block), number))
            number += block.count(b"\n")


def _plain_block(block: bytes) -> PassageBatch | None:
    """Parse whole lines with msgspec; return None where corpus.py must read them.

    msgspec accepts blank lines, several objects in a line and objects over several lines. Where every line begins with
    { and ends in }, no object goes over several lines; where there are also as many objects as lines, each line is one
    object. It does not look at the bytes of fields that it leaves out: they must be UTF-8 too.
    """
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(text))
    begins = np.append(0, ends[:-1] + 1)
    if not ((text[begins] == ord("{")).all() and (text[ends - 1] == ord("}")).all() and _is_utf8(block)):
        return None
    rows = _parse_json(block)
    if len(rows) != len(ends) or any(row.id == "" for row in rows):
        return None
    return PassageBatch([str(row.id) for row in rows], [row.contents for row in rows])


def _parse_json(block: bytes) -> list[_Row]:
    try:
        return _ROWS.decode_lines(block)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []


def _plain(rows: pa.RecordBatch) -> PassageBatch | None:
    """Return the two columns as the builder takes them, or None where corpus.py must read them."""
    import pyarrow as pa

    if set(rows.schema.names) != {"id", "contents"}:
        return None
    ids, contents = rows.column("id"), rows.column("contents")
    if pa.types.is_integer(ids.type):
        ids = ids.cast(pa.string())
    if not (len(rows) and _is_text(ids) and _is_text(contents)) or ids.index("").as_py() >= 0:
        return None
    return PassageBatch(ids, contents)


def _is_text(column: pa.Array) -> bool:
    import pyarrow as pa

    if column.null_count or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return False
    try:
        column.validate(full=True)  # UTF-8
    except pa.ArrowInvalid:
        return False
    return True


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
