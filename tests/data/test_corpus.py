"""Reading passages, and one clear line for everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aslfast.data.corpus import Passage, place_of, read_corpus
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index


def jsonl(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def error_of(*paths: Path) -> str:
    with pytest.raises(UserError) as caught:
        list(read_corpus(paths))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_title_and_text() -> None:
    passage = Passage("1", '"The "Title"\nfirst line\nsecond')
    assert (passage.title, passage.text) == ('The "Title', "first line\nsecond")
    assert (Passage("1", "no title").title, Passage("1", "no title").text) == ("", "no title")
    assert (Passage("1", "\nbody").title, Passage("1", "\nbody").text) == ("", "body")


def test_reads_jsonl_and_parquet_in_order(tmp_path: Path) -> None:
    a = jsonl(tmp_path / "a.jsonl", {"id": 7, "contents": "sieben"}, {"id": "x", "contents": "", "more": [1]})
    b = parquet(tmp_path / "b.parquet", extra=[1, 2, 3], contents=["p", "q", "東京"], id=[1, 2, 3])
    expected = [Passage("7", "sieben"), Passage("x", ""), Passage("1", "p"), Passage("2", "q"), Passage("3", "東京")]
    assert list(read_corpus([a, str(b)])) == expected
    assert list(read_corpus(str(a))) == expected[:2]


def test_blank_lines_and_a_missing_last_newline_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('\n{"id": "1", "contents": "a"}\n  \n{"id": "2", "contents": "b"}')
    assert [passage.id for passage in read_corpus(file)] == ["1", "2"]
    assert place_of([file], 1) == f"{file}:4"


def test_dprs_tsv(tmp_path: Path) -> None:
    """Quotes doubled within quotes, as in psgs_w100.tsv; the same passages reach an index."""
    file = tmp_path / "psgs.tsv"
    file.write_text('id\ttext\ttitle\n1\t"He said ""no"" twice"\tAaron\n2\tb c\t"""Nah"""\n', encoding="utf-8")
    expected = [Passage("1", '"Aaron"\nHe said "no" twice'), Passage("2", '""Nah""\nb c')]
    assert list(read_corpus(file)) == expected and place_of([file], 1) == f"{file}:3"
    index = BM25Index.build(file, tmp_path / "idx", threads=1)
    assert index.passages(["2", "1"]) == expected[::-1]
    for text, message in (
        ("id\ttext\n1\tx\n", "psgs.tsv:2: 'text' or 'title' is missing"),
        ("id\ttext\ttitle\n\tx\ty\n", "psgs.tsv:2: field 'id' is empty"),
        ("id\ttext\ttitle\n", "no passages"),
    ):
        file.write_text(text)
        assert message in error_of(file)
    file.write_bytes(b"id\ttext\ttitle\n1\t\xff\ty\n")
    assert "psgs.tsv:2: not valid UTF-8 at byte 2" in error_of(file)


TITLES = {  # as DPR writes it -> the title
    '"""Heroes"" (David Bowie album)"': '"Heroes" (David Bowie album)',
    '"""A"" is for ""Alibi"""': '"A" is for "Alibi"',
    '"""Heroes"""': '"Heroes"',
    '"The ""Fish"" Cheer"': 'The "Fish" Cheer',
    "Aaron": "Aaron",
    '""""': '"',
}


def test_titles_keep_their_own_quotes(tmp_path: Path) -> None:
    file = tmp_path / "psgs.tsv"
    lines = [f"{number}\ttext\t{title}\n" for number, title in enumerate(TITLES)]
    file.write_text("id\ttext\ttitle\n" + "".join(lines), encoding="utf-8")
    passages = list(read_corpus(file))
    assert [passage.title for passage in passages] == list(TITLES.values())
    assert passages[0].contents == '""Heroes" (David Bowie album)"\ntext'


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('1\t"Heroes is\tA\n2\tb\tB\n3\t"Nah" c\tC\n', r"psgs.tsv:2: a quote is not closed or not doubled"),
        ('1\t"Heroes is\tA\n2\tb\tB\n3\tso\t"C"\n4\td\tD\n', r"psgs.tsv:2: a quote is not closed"),
        ('1\t"Heroes is\tA\n2\tb\tB\n3\tsaid he"\tC\n4\td\tD\n', r"psgs.tsv:2: a quote opens here that line 4 closes"),
        ('1\ta\tA\n2\t"Heroes" is\tB\n', r"psgs.tsv:3: a quote is not closed or not doubled"),
        ("1\ta\tb\tA\n", r"psgs.tsv:2: 4 fields, but the first line names 3"),
    ],
)
def test_an_open_quote_swallows_no_rows(rows: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "psgs.tsv"
    file.write_text("id\ttext\ttitle\n" + rows)
    assert message in error_of(file)


def test_a_field_may_go_over_lines(tmp_path: Path) -> None:
    file = tmp_path / "psgs.tsv"
    file.write_text('id\ttext\ttitle\n1\t"a\nb"\tA\n2\tc\tC\n')
    assert list(read_corpus(file)) == [Passage("1", '"A"\na\nb'), Passage("2", '"C"\nc')]


def test_reading_is_streamed(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": "1", "contents": "a"}\nbroken\n')
    passages = read_corpus(file)
    assert next(passages) == Passage("1", "a")
    with pytest.raises(UserError, match=r"a\.jsonl:2: not JSON"):
        next(passages)


BAD_LINES = [
    (b"{'id': 1}", "not JSON"),
    (b'{"id": 1, "contents": "a"', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'["id"]', "a list, not an object"),
    (b'{"contents": "a"}', "field 'id' is missing"),
    (b'{"id": null, "contents": "a"}', "field 'id' is missing"),
    (b'{"id": 1, "text": "a"}', "field 'contents' is missing"),
    (b'{"id": 1.5, "contents": "a"}', "field 'id' is a float"),
    (b'{"id": true, "contents": "a"}', "field 'id' is a bool"),
    (b'{"id": "", "contents": "a"}', "field 'id' is empty"),
    (b'{"id": 1, "contents": ["a"]}', "field 'contents' is a list"),
    (b'{"id": 1, "contents": "\\ud800"}', "lone surrogate"),
    (b'{"id": 1, "contents": "\xff"}', "not valid UTF-8"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES)
def test_bad_lines_are_named(tmp_path: Path, line: bytes, problem: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"id": 0, "contents": "a"}\n' + line + b"\n")
    message = error_of(file)
    assert message.startswith(f"{file}:2: ")
    assert problem in message


def test_bad_rows_are_named(tmp_path: Path) -> None:
    rows = {"id": ["a", "b", None], "contents": ["x", "y", "z"]}
    assert "null.parquet row 3: field 'id' is missing" in error_of(parquet(tmp_path / "null.parquet", **rows))
    assert "row 1: field 'contents' is missing" in error_of(parquet(tmp_path / "one.parquet", id=["a"]))
    assert "row 1: field 'id' is missing" in error_of(parquet(tmp_path / "none.parquet", other=["a"]))
    assert "field 'contents' is a bytes" in error_of(parquet(tmp_path / "bytes.parquet", id=["a"], contents=[b"x"]))


def test_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    assert "not valid UTF-8" in error_of(parquet(tmp_path / "a.parquet", id=["a"], contents=bad))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "a.jsonl: no such file" in error_of(tmp_path / "a.jsonl")
    assert "is a folder" in error_of(tmp_path)
    (tmp_path / "a.csv").write_text("id,contents")
    assert "unknown kind of corpus '.csv'; use a .jsonl, .parquet or .tsv" in error_of(tmp_path / "a.csv")
    with pytest.raises(UserError, match="no corpus file"):
        read_corpus([])


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_not_a_parquet_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    assert "not a readable Parquet file" in error_of(tmp_path / "a.parquet")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", id=["a" * 500], contents=["b" * 500])
    data = bytearray(file.read_bytes())
    data[4:60] = b"\xff" * 56
    file.write_bytes(data)
    assert "not a readable Parquet file" in error_of(file)


def test_an_empty_corpus(tmp_path: Path) -> None:
    a, b = jsonl(tmp_path / "a.jsonl"), parquet(tmp_path / "b.parquet", id=[], contents=[])
    message = error_of(a, b)
    assert "no passages" in message and "a.jsonl" in message and "b.parquet" in message
