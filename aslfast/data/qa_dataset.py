"""Questions with their accepted answers, from the files in which the datasets are published.

Natural Questions, TriviaQA, PopQA, HotpotQA, 2WikiMultiHopQA, MuSiQue and Bamboogle, each in its own fields, in
FlashRAG's (`golden_answers`, `metadata`; RUC-NLPIR/FlashRAG, flashrag/dataset/dataset.py) and in Search-R1's (`prompt`,
`reward_model.ground_truth.target`; PeterGriffinJin/Search-R1's data scripts).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aslfast.core import Question
from aslfast.data.qa_rows import Row, read_rows
from aslfast.errors import UserError
from aslfast.files.atomic import atomic_file

ANSWER_FIELDS = ("answers", "golden_answers", "possible_answers", "answer", "Answer")
ID_FIELDS = ("id", "_id", "QuestionId", "question_id")


def read_questions(path: str | Path, limit: int | None = None) -> list[Question]:
    """Read the first `limit` questions of a file. Raises UserError, which names file, row and field."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such question file")
    numbered = enumerate(islice(read_rows(file), limit), 1)
    questions = [_question(row, f"{file}: {place}", number) for number, (place, row) in numbered]
    if not questions:
        raise UserError(f"{file}: no questions in it; give a file with at least one")
    return questions


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write a Parquet file that `read_questions` reads, complete or not at all. Raises OSError."""
    rows = [{"id": q.id, "question": q.text, "answers": list(q.references), "hops": q.hops} for q in questions]
    with atomic_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows), partial)


def _question(row: Row, place: str, number: int) -> Question:
    text = row.get("question", row.get("Question")) or _prompt_question(row.get("prompt"))
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place}: field 'question' is missing or empty; give the question's text")
    answers = _answers(row)
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise UserError(f"{place}: field 'answers' is missing or empty; give a list of accepted answers")
    id_ = next((row[name] for name in ID_FIELDS if row.get(name) is not None), number)
    texts = [_encodable(item) for item in (str(id_), text, *answers)]
    return Question(texts[0], texts[1], tuple(dict.fromkeys(texts[2:])), _hops(row, str(id_)))


def _prompt_question(prompt: object) -> str | None:
    """Return the question in Search-R1's prompt: the last message, from "Question:" on where it says so."""
    message = prompt[-1] if isinstance(prompt, list) and prompt else None
    content = message.get("content") if isinstance(message, dict) else None
    return content.rpartition("Question:")[2].strip() if isinstance(content, str) else None


def _answers(row: Row) -> object:
    """Return the accepted answers, a list of str where the row is sound."""
    found = next((row[name] for name in ANSWER_FIELDS if row.get(name) is not None), _ground_truth(row))
    match found:
        case str() if row.get("possible_answers") is found:  # PopQA: a list, as JSON in a string
            return _parsed(found)
        case str():
            return [found, *(row.get("answer_aliases") or [])]  # MuSiQue
        case {"value": value, "aliases": list(aliases)} | {"Value": value, "Aliases": list(aliases)}:  # TriviaQA
            return [value, *aliases]
    return _rejoined(found)


def _ground_truth(row: Row) -> object:
    match row.get("reward_model"):
        case {"ground_truth": {"target": target}} | {"ground_truth": target}:
            return target
    return None


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return [text]


def _hops(row: Row, id_: str) -> int:
    """Return the hops: as given, from MuSiQue's id ("3hop1__..."), or the number of supporting pages (HotpotQA)."""
    if isinstance(row.get("hops"), int):
        return row["hops"]
    named = re.match(r"(\d)hop", id_)
    if named:
        return int(named[1])
    metadata = row.get("metadata")
    facts = row.get("supporting_facts") or (metadata.get("supporting_facts") if isinstance(metadata, dict) else None)
    titles = facts.get("title") if isinstance(facts, dict) else [fact[0] for fact in facts or () if fact]
    return len(set(titles or ()))


def _encodable(text: str) -> str:
    """Return the text with "?" for half a surrogate pair: JSON can spell it, UTF-8 cannot hold it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _rejoined(answers: object) -> object:
    """Rejoin lists that a conversion split into letters, as in some copies of Natural Questions: "['A']" -> ["A"]."""
    if not isinstance(answers, list) or len(answers) < 3:
        return answers
    if not all(isinstance(answer, str) and len(answer) == 1 for answer in answers):
        return answers
    text = "".join(answers)
    if not (text.startswith("[") and text.endswith("]")):
        return answers
    return [part.strip(" '`\"") for part in re.split(r"(?<=['\"])\s*,\s*|\s*,\s*(?=['\"])", text[1:-1])]
