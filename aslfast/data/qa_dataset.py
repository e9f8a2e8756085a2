"""Questions with their accepted answers, from the files that people have: Parquet, JSONL, JSON, CSV and TSV.

Read as they are published: Natural Questions, TriviaQA, PopQA, HotpotQA, 2WikiMultiHopQA, MuSiQue and Bamboogle, each
in its own fields, in FlashRAG's (`golden_answers`, `metadata`; RUC-NLPIR/FlashRAG, flashrag/dataset/dataset.py) and in
Search-R1's (`prompt`, `reward_model.ground_truth.target`; PeterGriffinJin/Search-R1's data scripts).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aslfast.errors import UserError

ANSWER_FIELDS = ("answers", "golden_answers", "possible_answers", "answer", "Answer")
ID_FIELDS = ("id", "_id", "QuestionId", "question_id")


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its accepted answers. hops 0: unknown."""

    id: str
    question: str
    answers: tuple[str, ...]
    hops: int = 0


def read_questions(path: str | Path, limit: int | None = None) -> list[Question]:
    """The questions of a file, the first `limit` of them. Raises UserError, which names file, row and field."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such question file")
    rows = _READERS.get(file.suffix.lower(), _parquet_rows)(file)
    numbered = enumerate(islice(rows, limit), 1)
    questions = [_question(row, f"{file}: {place}", number) for number, (place, row) in numbered]
    if not questions:
        raise UserError(f"{file}: no questions in it; give a file with at least one")
    return questions


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    rows = [{"id": q.id, "question": q.question, "answers": list(q.answers), "hops": q.hops} for q in questions]
    pq.write_table(pa.Table.from_pylist(rows), path)


# --- rows ------------------------------------------------------------------------------------------------------

Rows = Iterator[tuple[str, dict[str, Any]]]  # where each stands, what it holds


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
    """A list of objects, or one under "data" or "Data" (TriviaQA); anything else is read as JSONL."""
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


def _json(text: bytes, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON; one object a line with question and answers") from error


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place} is no JSON object; it needs question and answers")
    return row


def _separated_rows(file: Path) -> Rows:
    """CSV (Bamboogle), or TSV (PopQA), with a line of names."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            for row in reader:
                yield f"line {reader.line_num}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable ({error}); save it as UTF-8 with a line of names") from error


_READERS = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _separated_rows, ".tsv": _separated_rows}


# --- fields ----------------------------------------------------------------------------------------------------


def _question(row: dict[str, Any], place: str, number: int) -> Question:
    text = row.get("question", row.get("Question")) or _asked(row.get("prompt"))
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place}: field 'question' is missing or empty; give the question's text")
    answers = _answers(row)
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise UserError(f"{place}: field 'answers' is missing or empty; give a list of accepted answers")
    id_ = next((row[name] for name in ID_FIELDS if row.get(name) is not None), number)
    whole = [_whole(item) for item in (str(id_), text, *answers)]
    return Question(whole[0], whole[1], tuple(dict.fromkeys(whole[2:])), _hops(row, str(id_)))


def _asked(prompt: Any) -> str | None:
    """The question in Search-R1's prompt: the last message, from "Question:" on where it says so."""
    message = prompt[-1] if isinstance(prompt, list) and prompt else None
    content = message.get("content") if isinstance(message, dict) else None
    return content.rpartition("Question:")[2].strip() if isinstance(content, str) else None


def _answers(row: dict[str, Any]) -> Any:
    found = next((row[name] for name in ANSWER_FIELDS if row.get(name) is not None), _ground_truth(row))
    match found:
        case str() if row.get("possible_answers") is found:  # PopQA: a list, as JSON in a string
            return _listed(found)
        case str():
            return [found, *(row.get("answer_aliases") or [])]  # MuSiQue
        case {"value": value, "aliases": list(aliases)} | {"Value": value, "Aliases": list(aliases)}:  # TriviaQA
            return [value, *aliases]
    return _rejoined(found)


def _ground_truth(row: dict[str, Any]) -> Any:
    match row.get("reward_model"):
        case {"ground_truth": {"target": target}} | {"ground_truth": target}:
            return target
    return None


def _listed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [text]


def _hops(row: dict[str, Any], id_: str) -> int:
    """As given; or by MuSiQue's id ("3hop1__..."); or the pages that the answer takes (HotpotQA, 2WikiMultiHopQA)."""
    if isinstance(row.get("hops"), int):
        return row["hops"]
    named = re.match(r"(\d)hop", id_)
    if named:
        return int(named[1])
    metadata = row.get("metadata")
    facts = row.get("supporting_facts") or (metadata.get("supporting_facts") if isinstance(metadata, dict) else None)
    titles = facts.get("title") if isinstance(facts, dict) else [fact[0] for fact in facts or () if fact]
    return len(set(titles or ()))


def _whole(text: str) -> str:
    """The text with "?" for half a surrogate pair: JSON can spell it, UTF-8 cannot hold it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _rejoined(answers: Any) -> Any:
    """Natural Questions as often published: lists that a conversion took apart: ["[", "'", "A", "'", "]"] -> ["A"]."""
    letters = isinstance(answers, list) and all(isinstance(a, str) and len(a) == 1 for a in answers)
    if not letters or len(answers) < 3:
        return answers
    text = "".join(answers)
    if not (text.startswith("[") and text.endswith("]")):
        return answers
    return [part.strip(" '`\"") for part in re.split(r"(?<=['\"])\s*,\s*|\s*,\s*(?=['\"])", text[1:-1])]
