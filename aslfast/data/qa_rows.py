"""The rows of a question file, as dictionaries: Parquet, JSONL, JSON, CSV and TSV."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from aslfast.errors import UserError

Row: TypeAlias = dict[str, Any]  # JSON or Parquet values
Rows: TypeAlias = Iterator[tuple[str, Row]]  # (place in the file, row)


def read_rows(file: Path) -> Rows:
    """Stream the rows of a file by its suffix; an unknown suffix is read as Parquet. Raises UserError."""
    return _READERS.get(file.suffix.lower(), _parquet_rows)(file)


def _parquet_rows(file: Path) -> Rows:
    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: not a Parquet file ({reason}); questions come as .parquet or .jsonl") from error


def _jsonl_rows(file: Path) -> Rows:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"line {number}", _object(_json(line, f"{file}: line {number}"), f"{file}: line {number}")


def _json_rows(file: Path) -> Rows:
    """Stream a list of objects, or one under "data" or "Data" (TriviaQA); anything else is read as JSONL."""
    text = file.read_bytes()
    if text.lstrip()[:1] != b"[" and not re.match(rb'\s*\{\s*"([Dd]ata|Domain)"', text):
        yield from _jsonl_rows(file)
        return
    tree = _json(text, str(file))
    listed = tree if isinstance(tree, list) else tree.get("Data", tree.get("data"))
    if not isinstance(listed, list):
        raise UserError(f"{file}: holds no list of questions; give a list of objects with question and answers")
    for number, row in enumerate(listed, 1):
        yield f"item {number}", _object(row, f"{file}: item {number}")


def _separated_rows(file: Path) -> Rows:
    """Stream CSV (Bamboogle) or TSV (PopQA) with a header line."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            for row in reader:
                yield f"line {reader.line_num}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable ({error}); save it as UTF-8 with a line of names") from error


_READERS = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _separated_rows, ".tsv": _separated_rows}


def _json(text: bytes, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON; one object a line with question and answers") from error


def _object(row: object, place: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"{place} is no JSON object; it needs question and answers")
    return row
