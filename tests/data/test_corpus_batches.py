"""The fast readers against the careful one: the same passages, the same errors."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast.data import corpus_batches
from aslfast.data.corpus import Passage, read_corpus
from aslfast.data.corpus_batches import open_source
from aslfast.errors import UserError


def read(reader: object) -> tuple[list[Passage], str]:
    """Read the passages up to the first error, and the error."""
    passages: list[Passage] = []
    try:
        for passage in reader:  # type: ignore[attr-defined]
            passages.append(passage)
    except UserError as error:
        return passages, str(error)
    return passages, ""


def quick(file: Path) -> list[Passage]:
    def each() -> object:
        for batch in open_source(file).batches:
            assert len(batch.ids) == len(batch.contents) == len(batch) > 0
            ids, contents = (c if isinstance(c, list) else c.to_pylist() for c in (batch.ids, batch.contents))
            yield from map(Passage, ids, contents)

    return each()  # type: ignore[return-value]


def check_same(file: Path) -> str:
    """Assert the same result; only whole batches come before an error, not all passages before it in its block."""
    passages, problem = read(read_corpus(file))
    found, quick_problem = read(quick(file))
    assert quick_problem == problem
    assert found == passages if not problem else found == passages[: len(found)]
    return problem


def is_quick(file: Path) -> bool:
    """Return whether no batch is read again by the careful reader."""
    again: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_lines", "parse_rows"):
            careful = getattr(corpus_batches, name)
            patch.setattr(corpus_batches, name, lambda *args, to=careful: again.append(args) or to(*args))
        list(open_source(file).batches)
    return not again


GOOD = [
    b'{"id": "a", "contents": "cat"}',
    b'{"contents": "\\u6771 \\ud83d\\ude00 \\u0000", "id": "b", "more": {"id": 1, "x": [{}]}}',
    '{"id": "東", "contents": "京\\n\\t", "contents2": 1}'.encode(),
    b'{"id": "c", "contents": ""}',
    b'{"id": "d", "contents": "} {", "n": 1e999}',
    b'{"id": "x", "id": "the last one counts", "contents": "cat"}',
]
NUMBERS = [
    b'{"id": 7, "contents": "cat"}',
    b'{"id": -0, "contents": "cat"}',
    b'{"id": 92233720368547758070, "contents": "too large for 64 bits"}',
]
ODD = [
    b"",
    b"  \t",
    b'{"id": "a", "contents": "cat"} ',
    b'{"id": "a", "contents": "cat"}\r',
    b' {"id": "a", "contents": "cat"}',
    b'{"id": "a", "contents": "cat", "more": NaN}',
    b'{"id": "a", "contents": "cat", "more": "\\ud800"}',
    b'\xef\xbb\xbf{"id": "a", "contents": "cat"}',
]
BAD = [
    b'{"id": "a", "contents": "cat"}{"id": "b", "contents": "cat"}',
    b'{"id": "a", "contents": "cat"} {"id": "b", "contents": "cat"}',
    b'{"id": "a",',
    b'"contents": "cat"}',
    b'{"id": "a", "contents": "cat", "more":',
    b'{"x": 1}}',
    b'{"id": "a", "contents": "cat", "more": "\xff"}',
    b'{"id": "a", "contents": "\xff"}',
    b'{"id": "a", "contents": "\\ud800"}',
    b'{"id": "a", "contents": null}',
    b'{"id": "", "contents": "cat"}',
    b'{"id": "a"}',
    b'{"id": 1.5, "contents": "cat"}',
    b'{"id": 1e3, "contents": "cat"}',
    b'{"id": true, "contents": "cat"}',
    b'{"id": "a", "contents": ["cat"]}',
    b"{}",
    b"[{}]",
    b"7",
]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(GOOD + NUMBERS + ODD + BAD[:6]) | st.sampled_from(GOOD), min_size=1, max_size=8),
    st.booleans(),
    st.integers(1, 400),
)
def test_jsonl_reads_as_the_careful_reader_has_it(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ends: bool, block_bytes: int
) -> None:
    file = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n" * ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_batches, "BLOCK_BYTES", block_bytes)
        check_same(file)


@pytest.mark.parametrize("bad", BAD)
def test_bad_lines_give_the_careful_readers_error(tmp_path: Path, bad: bytes) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join([*GOOD, bad, *GOOD]))
    assert f"a.jsonl:{len(GOOD) + 1}: " in check_same(file)


def test_what_reads_quickly(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for lines in (GOOD, NUMBERS, GOOD + NUMBERS):
        for end in (b"", b"\n"):
            file.write_bytes(b"\n".join(lines) + end)
            assert check_same(file) == "" and is_quick(file)
    for line in ODD:
        file.write_bytes(b"\n".join([GOOD[0], line, GOOD[1]]))
        assert check_same(file) == "" and not is_quick(file)


def test_a_line_larger_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_batches, "BLOCK_BYTES", 1000)
    file = tmp_path / "a.jsonl"
    records = [{"id": str(i), "contents": "x" * (i * 700)} for i in range(10)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert check_same(file) == "" and is_quick(file)


def arrow_columns() -> dict[str, tuple[dict[str, pa.Array], bool]]:
    text = pa.array(["x", "y", "東京"])
    ids = pa.array(["a", "b", "c"])
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    return {
        "strings": ({"more": ids, "contents": text, "id": ids}, True),
        "large strings": ({"id": ids.cast(pa.large_string()), "contents": text.cast(pa.large_string())}, True),
        "int64 ids": ({"id": pa.array([1, -2, 3]), "contents": text}, True),
        "uint8 ids": ({"id": pa.array([1, 2, 3], pa.uint8()), "contents": text}, True),
        "dictionary": ({"id": ids, "contents": text.dictionary_encode()}, False),
        "a null id": ({"id": pa.array(["a", None, "c"]), "contents": text}, False),
        "null contents": ({"id": ids, "contents": pa.array(["x", None, "y"])}, False),
        "an empty id": ({"id": pa.array(["a", "", "c"]), "contents": text}, False),
        "no contents": ({"id": ids, "text": text}, False),
        "no id": ({"contents": text}, False),
        "neither": ({"text": text}, False),
        "boolean ids": ({"id": pa.array([True, False, True]), "contents": text}, False),
        "float ids": ({"id": pa.array([1.0, 2.0, 3.0]), "contents": text}, False),
        "bytes": ({"id": ids, "contents": text.cast(pa.binary())}, False),
        "not UTF-8": ({"id": pa.array(["a"]), "contents": bad}, False),
        "no rows": ({"id": ids[:0], "contents": text[:0]}, True),
    }


@pytest.mark.parametrize("name", arrow_columns())
def test_parquet_reads_as_the_careful_reader_has_it(tmp_path: Path, name: str) -> None:
    columns, plain = arrow_columns()[name]
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), file, row_group_size=2)
    problem = check_same(file)
    assert problem or is_quick(file) == plain


def test_files_that_cannot_be_read_are_reported_alike(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    assert "not a readable Parquet file" in check_same(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n \n")
    assert "no passages" in check_same(tmp_path / "a.jsonl")
    for name in ("none.jsonl", ".", "a.csv"):
        with pytest.raises(UserError) as careful:
            read_corpus(tmp_path / name)
        with pytest.raises(UserError) as fast:
            open_source(tmp_path / name)
        assert str(fast.value) == str(careful.value)
