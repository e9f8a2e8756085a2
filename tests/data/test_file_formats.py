"""Every format of questions and passages, of topics, ids and recipes, in every encoding: the same, or one line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aslfast.config import load_recipe
from aslfast.core import Question
from aslfast.data.corpus import Passage, read_corpus
from aslfast.data.corpus_batches import open_source
from aslfast.data.qa_dataset import read_questions
from aslfast.data.topics import read_topics
from aslfast.errors import UserError
from aslfast.files.text import read_text

HARD = 'Is "a, b" the same\tas „東京“ ☕?'  # quotes, both separators, not in Latin-1
HUGE = "x" * 200_000  # more than csv's own limit of a field
TEXTS = {"plain": "Who was it?", "quotes": HARD, "lines": 'one\n"two"', "huge": HUGE}


def table(separator: str, *rows: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator="\n").writerows(rows)
    return out.getvalue()


QUESTIONS: dict[str, Callable[[str], str]] = {
    ".jsonl": lambda text: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in question_rows(text)),
    ".json": lambda text: json.dumps(question_rows(text), ensure_ascii=False, indent=1),
    ".csv": lambda text: table(",", ["id", "question", "answers"], *question_cells(text)),
    ".tsv": lambda text: table("\t", ["id", "question", "answers"], *question_cells(text)),
}
PASSAGES: dict[str, Callable[[str], str]] = {
    ".jsonl": lambda text: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in passage_rows(text)),
    ".tsv": lambda text: table("\t", ["id", "text", "title"], ["1", text, text.split("\n")[0]], ["2", "é", "B"]),
}


def question_rows(text: str) -> list[dict[str, object]]:
    return [{"id": "1", "question": text, "answers": ["a", text]}, {"id": "2", "question": "é?", "answers": ["b"]}]


def question_cells(text: str) -> list[list[str]]:
    return [["1", text, json.dumps(["a", text])], ["2", "é?", "['b']"]]


def passage_rows(text: str) -> list[dict[str, str]]:
    return [{"id": "1", "contents": f'"{text.split(chr(10))[0]}"\n{text}'}, {"id": "2", "contents": '"B"\né'}]


def questions_of(text: str) -> list[Question]:
    return [Question("1", text, ("a", text)), Question("2", "é?", ("b",))]


def passages_of(text: str) -> list[Passage]:
    return [Passage(row["id"], row["contents"]) for row in passage_rows(text)]


def indexed(file: Path) -> list[Passage]:
    """The passages as the index builder reads them."""
    batches = [(batch.ids, batch.contents) for batch in open_source(file).batches]
    columns = [tuple(c if isinstance(c, list) else c.to_pylist() for c in batch) for batch in batches]
    return [Passage(*pair) for ids, contents in columns for pair in zip(ids, contents, strict=True)]


WAYS = {  # how a text reaches the file, and whether it can be read
    "UTF-8": lambda text: text.encode(),
    "BOM": lambda text: text.encode("utf-8-sig"),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "BOM and CRLF": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "no last newline": lambda text: text.rstrip("\n").encode(),
    "blank lines": lambda text: ("\n" + text + "\n\n").encode(),
}
REFUSED = {
    "UTF-16": (lambda text: text.encode("utf-16"), "UTF-16 or UTF-32, not UTF-8; save the file as UTF-8"),
    "UTF-16 without a mark": (lambda text: text.encode("utf-16-le"), "save the file as UTF-8"),
    "UTF-16, high byte first": (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), "not UTF-8; save the file as"),
    "UTF-32": (lambda text: text.encode("utf-32"), "UTF-16 or UTF-32, not UTF-8; save the file as UTF-8"),
    "Latin-1": (lambda text: text.encode("latin-1", "replace"), "not valid UTF-8 at byte"),
    "Shift-JIS": (lambda text: (text.replace("é", "東")).encode("shift-jis", "replace"), "not valid UTF-8 at byte"),
    "bytes": (lambda _: bytes(range(256)), "save the file as UTF-8"),
}


def read_passages(file: Path) -> list[Passage]:
    return list(read_corpus(file))


KINDS = [
    *((f"questions{suffix}", content, read_questions, questions_of) for suffix, content in QUESTIONS.items()),
    *((f"passages{suffix}", content, read_passages, passages_of) for suffix, content in PASSAGES.items()),
    *((f"passages{suffix}", content, indexed, passages_of) for suffix, content in PASSAGES.items()),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "content", "read", "expected"), KINDS)
def test_every_text_format_reads_the_same(name, content, read, expected, way, tmp_path):
    for what, text in TEXTS.items():
        if not (what == "lines" and "CRLF" in way):  # there a line end within a field is the field's own
            (tmp_path / name).write_bytes(WAYS[way](content(text)))
            assert read(tmp_path / name) == expected(text), what


@pytest.mark.parametrize("encoding", REFUSED)
@pytest.mark.parametrize(("name", "content", "read", "expected"), KINDS)
def test_every_other_encoding_is_named_in_one_line(name, content, read, expected, encoding, tmp_path):
    encode, words = REFUSED[encoding]
    (tmp_path / name).write_bytes(encode(content(TEXTS["plain"])))
    refused(lambda: read(tmp_path / name), f"{tmp_path / name}", words)


def refused(read: Callable[[], object], *words: str) -> None:
    with pytest.raises(UserError) as raised:
        read()
    message = str(raised.value)
    assert "\n" not in message and len(message) < 500 and all(word in message for word in words), message


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n", b"id\tquestion\ttext\ttitle\n"])
@pytest.mark.parametrize("name", dict.fromkeys((kind[0], kind[2]) for kind in KINDS), ids=lambda kind: kind[0])
def test_every_empty_file_is_named(name, content, tmp_path):
    file, read = tmp_path / name[0], name[1]
    file.write_bytes(content if file.suffix in (".csv", ".tsv") else content.partition(b"id")[0])
    refused(lambda: read(file), file.name, "no questions" if file.stem == "questions" else "no passages")


@pytest.mark.parametrize("what", TEXTS)
def test_parquet_reads_what_text_formats_read(what, tmp_path):
    for name, rows, read, expected in (
        ("q.parquet", question_rows(TEXTS[what]), read_questions, questions_of(TEXTS[what])),
        ("p.parquet", passage_rows(TEXTS[what]), indexed, passages_of(TEXTS[what])),
    ):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        assert read(tmp_path / name) == expected


def test_parquet_that_is_not_utf8(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"question": bad, "answers": [["x"]]}), tmp_path / "q.parquet")
    refused(lambda: read_questions(tmp_path / "q.parquet"), "q.parquet after row 0: not valid UTF-8")


# --- topics, recipes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_topics_and_recipes_in_every_way(way, tmp_path):
    (tmp_path / "topics.txt").write_bytes(WAYS[way]("history\nStädte ☕\n"))
    assert read_topics(str(tmp_path / "topics.txt")) == ["history", "Städte ☕"]
    (tmp_path / "mine.toml").write_bytes(WAYS[way]('extends = "tiny"\n[model]\npath = "Städte ☕"\n'))
    assert load_recipe(str(tmp_path / "mine.toml")).model.path == "Städte ☕"
    (tmp_path / "ids").write_bytes(WAYS[way]("a\né\n"))
    assert [line for line in read_text(tmp_path / "ids").split("\n") if line] == ["a", "é"]


@pytest.mark.parametrize("encoding", REFUSED)
def test_topics_and_recipes_in_another_encoding(encoding, tmp_path):
    encode, words = REFUSED[encoding]
    (tmp_path / "topics.txt").write_bytes(encode("history\nétude\n"))
    refused(lambda: read_topics(str(tmp_path / "topics.txt")), "topics.txt", words)
    (tmp_path / "mine.toml").write_bytes(encode('extends = "tiny"\n[model]\npath = "é"\n'))
    refused(lambda: load_recipe(str(tmp_path / "mine.toml")), "mine.toml", words)
