"""CSV and TSV: rows as csv writes them, read strictly, so that a quote left open is an error and swallows no rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from aslfast.errors import UserError
from aslfast.files.text import decoded_lines

MOST_FIELD_CHARS = 1 << 30  # csv's own limit is 131,072: less than the context of a HotpotQA question
REMEDY = 'write a field that holds quotes as csv does, "He said ""no""", or use JSONL'


def read_table(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Stream (number of its first line, fields) of each row; empty lines are skipped. Raises UserError, OSError."""
    csv.field_size_limit(MOST_FIELD_CHARS)
    reader = csv.reader(decoded_lines(file), delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{file}:{first}: a quote is not closed or not doubled ({error}); {REMEDY}") from error
        # a quote that was left open swallows rows up to the next one, and with them the tabs of these rows
        if delimiter == "\t" and any("\n" in field and "\t" in field for field in fields):
            raise UserError(f"{file}:{first}: a quote opens here that line {reader.line_num} closes; {REMEDY}")
        if fields:
            yield first, fields


def named(names: Sequence[str], fields: Sequence[str], place: str) -> dict[str, str]:
    """Return the fields of a row by name, without those that a short row lacks. Raises UserError for a long row."""
    if len(fields) > len(names):
        what = f"{len(fields)} fields, but the first line names {len(names)}"
        raise UserError(f"{place}: {what}; put fields that hold the separator in quotes")
    return dict(zip(names, fields, strict=False))
