"""The rows of a question file, as dictionaries: Parquet, JSONL, JSON, CSV and TSV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from aslfast.data.literals import spelled
from aslfast.data.tables import named, read_table
from aslfast.errors import UserError
from aslfast.files.text import decode, decoded_lines, read_text

Row: TypeAlias = dict[str, Any]  # JSON or Parquet values
Rows: TypeAlias = Iterator[tuple[str, Row]]  # (place in the file, row)

QUESTION_FIELDS = ("question", "Question", "question_text")


def read_rows(file: Path) -> Rows:
    """Stream the rows of a file by its suffix; an unknown suffix is read as Parquet. Raises UserError, OSError."""
    return _READERS.get(file.suffix.lower(), _parquet_rows)(file)


def _parquet_rows(file: Path) -> Rows:
    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except UnicodeDecodeError as error:
        raise UserError(f"{file} after row {number}: not valid UTF-8; write the columns as UTF-8 strings") from error
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: not a Parquet file ({reason}); questions come as .parquet or .jsonl") from error


def _jsonl_rows(file: Path) -> Rows:
    for number, line in enumerate(decoded_lines(file), 1):
        if line.strip():
            yield f"line {number}", _object(_json(line, f"{file}: line {number}"), f"{file}: line {number}")


def _json_rows(file: Path) -> Rows:
    """Stream a list of objects, or one under "data" or "Data" (SQuAD, TriviaQA); several objects are read as JSONL."""
    text = read_text(file)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] == "[":
            raise _not_json(str(file)) from error
        yield from _jsonl_rows(file)
        return
    listed = tree
    if isinstance(tree, dict):
        listed = tree.get("Data", tree.get("data", [tree]))
    if not isinstance(listed, list):
        raise UserError(f"{file}: holds no list of questions; give a list of objects with question and answers")
    for number, row in enumerate(listed, 1):
        yield from _flat(_object(row, f"{file}: item {number}"), f"item {number}")


def _flat(row: Row, place: str) -> Rows:
    """Yield a row, or the questions of an article of SQuAD, which stand under its paragraphs."""
    match row:
        case {"paragraphs": list(paragraphs)} if not set(row) & set(QUESTION_FIELDS):
            lists = [part.get("qas") for part in paragraphs if isinstance(part, dict)]
            questions = [question for listed in lists if isinstance(listed, list) for question in listed]
            for number, question in enumerate(questions, 1):
                yield f"{place}, question {number}", _object(question, f"{place}, question {number}")
        case _:
            yield place, row


def _separated_rows(file: Path) -> Rows:
    """Stream CSV (Bamboogle) or TSV (PopQA) with a line of names; DPR's files have tabs and no names."""
    with file.open("rb") as lines:
        start = decode(lines.readline(), f"{file}:1")
    table = read_table(file, "\t" if file.suffix.lower() == ".tsv" or "\t" in start else ",")
    names = next(table, (0, []))[1]
    if not set(names) & {*QUESTION_FIELDS, "prompt"} and len(names) == 2 and isinstance(spelled(names[1]), list):
        yield "line 1", dict(zip(("question", "answers"), names, strict=True))
        names = ["question", "answers"]
    for number, fields in table:
        yield f"line {number}", named(names, fields, f"{file}: line {number}")


_READERS = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _separated_rows, ".tsv": _separated_rows}


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(place) from error


def _not_json(place: str) -> UserError:
    return UserError(f"{place} is not JSON; one object a line with question and answers")


def _object(row: object, place: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"{place} is no JSON object; it needs question and answers")
    return row
