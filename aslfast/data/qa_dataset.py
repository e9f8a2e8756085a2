"""Questions with their accepted answers, from the files in which the datasets are published.

Natural Questions, TriviaQA, PopQA, HotpotQA, 2WikiMultiHopQA, MuSiQue, Bamboogle and SQuAD, each in its own fields and
as it lies on the Hub, in FlashRAG's (`golden_answers`, `metadata`; RUC-NLPIR/FlashRAG, flashrag/dataset/dataset.py), in
DPR's (question, tab, list of answers; no names) and in Search-R1's (`prompt`, `reward_model.ground_truth.target`;
PeterGriffinJin/Search-R1's data scripts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aslfast.core import Question
from aslfast.data.literals import spelled
from aslfast.data.qa_answers import read_answers, read_hops
from aslfast.data.qa_rows import QUESTION_FIELDS, Row, read_rows
from aslfast.errors import UserError
from aslfast.files.atomic import atomic_file

ID_FIELDS = ("id", "_id", "QuestionId", "question_id")


def read_questions(path: str | Path, limit: int | None = None) -> list[Question]:
    """Read the first `limit` questions of a file. Raises UserError, which names file, row and field."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such question file")
    try:
        numbered = enumerate(islice(read_rows(file), limit), 1)
        questions = [_question(row, f"{file}: {place}", number) for number, (place, row) in numbered]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}); check the file") from error
    if not questions:
        raise UserError(f"{file}: no questions in it; give a file with at least one")
    return questions


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write a Parquet file that `read_questions` reads, complete or not at all. Raises OSError."""
    rows = [{"id": q.id, "question": q.text, "answers": list(q.references), "hops": q.hops} for q in questions]
    with atomic_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows), partial)


def _question(row: Row, place: str, number: int) -> Question:
    text = _text(row)
    if not isinstance(text, str) or not text.strip():
        found = "missing or empty" if text in (None, "") or isinstance(text, str) else f"a {type(text).__name__}"
        raise UserError(f"{place}: field 'question' is {found}; give the question's text")
    id_ = next((str(row[name]) for name in ID_FIELDS if not _missing(row.get(name))), str(number))
    texts = [_encodable(item) for item in (id_, text, *read_answers(row, place))]
    return Question(texts[0], texts[1], tuple(dict.fromkeys(texts[2:])), read_hops(row, id_))


def _text(row: Row) -> object:
    """Return the question, a str where the row is sound."""
    found = next((row[name] for name in QUESTION_FIELDS if not _missing(row.get(name))), None)
    if isinstance(found, dict):  # Natural Questions: its text and its tokens
        return found.get("text")
    return _prompt_question(spelled(row.get("prompt"))) if found is None else found


def _missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _prompt_question(prompt: object) -> object:
    """Return the question in Search-R1's prompt: the last message, from "Question:" on where it says so."""
    message = prompt[-1] if isinstance(prompt, list) and prompt else None
    content = message.get("content") if isinstance(message, dict) else None
    return content.rpartition("Question:")[2].strip() if isinstance(content, str) else None


def _encodable(text: str) -> str:
    """Return the text with "?" for half a surrogate pair: JSON can spell it, UTF-8 cannot hold it."""
    return text.encode("utf-8", "replace").decode("utf-8")
