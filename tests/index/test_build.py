"""Segments: their files, the same bytes for all numbers of threads, batch sizes and memory; deleting and merging."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast import _bm25
from tests.support.index.segment_files import K1, B, build, check_segment, digest

WORDS = ["cat", "dog", "running", "the", "Zürich", "x1", "東京", "eleven", "horses", ""]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
corpora = st.lists(texts, max_size=150)


@settings(max_examples=40, deadline=None)
@given(corpora, st.integers(1, 4), st.integers(1, 70), st.sampled_from([0, 100_000, 1 << 30]))
def test_files_hold_what_a_plain_count_gives(contents: list[str], threads: int, batch: int, memory: int) -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "x"
        result = build(folder, contents, threads=threads, batch=batch, memory_bytes=memory)
        check_segment(folder, contents, [f"id{i}" for i in range(len(contents))], result["counts"])


def synthetic(n: int) -> list[str]:
    """Return passages of up to 60 words of a Zipf-like distribution, one of them with a word 300 times."""
    rng = np.random.default_rng(0)
    contents = [" ".join(f"w{w}" for w in rng.zipf(1.3, rng.integers(0, 60)) % 5000) for _ in range(n)]
    contents[n // 2] = "w1 " * 300 + "w2"
    return contents


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A segment of two windows, the first with tiles."""
    folder, contents = tmp_path_factory.mktemp("large") / "x", synthetic(67_000)
    build(folder, contents, threads=1)
    return folder, contents


def test_two_windows_with_tiles_and_big_counts(large: tuple[Path, list[str]], tmp_path: Path) -> None:
    _, contents = large
    counts = build(tmp_path / "x", contents, threads=3)["counts"]
    assert counts["big_counts"] == 1 and counts["tiled"] > 5
    check_segment(tmp_path / "x", contents, [f"id{i}" for i in range(len(contents))], counts)


@pytest.mark.parametrize(
    "options", [{"threads": 2}, {"threads": 5, "batch": 77}, {"memory_bytes": 4_000_000}, {"memory_bytes": 1}]
)
def test_the_same_bytes_for_all_threads_batches_and_memory(
    large: tuple[Path, list[str]], tmp_path: Path, options: dict[str, int]
) -> None:
    folder, contents = large
    build(tmp_path / "x", contents, **options)
    assert digest(tmp_path / "x") == digest(folder)


def test_a_small_budget_is_spent_on_runs_that_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    builder = _bm25.IndexBuilder(str(folder), analyzer="english", k1=K1, b=B, threads=2, memory_bytes=100_000)
    contents = synthetic(1000)
    builder.add([str(i) for i in range(1000)], contents)
    assert list(folder.glob("run-*"))
    builder.finish()
    assert sorted(path.name for path in folder.iterdir()) == sorted(_bm25.segment_files())


def delete(part: dict, docs: Sequence[int], file: Path) -> dict:
    deleted = _bm25.delete_passages(part, np.array(docs, np.uint32), "english", str(file))
    return part | {"deleted": deleted}


@settings(max_examples=40, deadline=None)
@given(st.lists(corpora, min_size=1, max_size=3), st.data())
def test_merging_gives_the_bytes_of_a_build_of_the_live_passages(parts: list[list[str]], data: st.DataObject) -> None:
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        specs, ids, contents = [], [], []
        for s, part in enumerate(parts):
            part_ids = [f"{s}-{i}" for i in range(len(part))]
            one = build(root / f"part{s}", part, part_ids)
            gone = data.draw(st.lists(st.integers(0, len(part) - 1))) if part else []
            if gone:  # in two steps, the second naming some of the first
                one = delete(one, gone[: len(gone) // 2 + 1], root / f"first{s}")
                one = delete(one, gone, root / f"second{s}")
            specs.append(one)
            live = [i for i in range(len(part)) if i not in gone]
            ids += [part_ids[i] for i in live]
            contents += [part[i] for i in live]
        (root / "merged").mkdir()
        counts = _bm25.merge_segments(specs, str(root / "merged"), k1=K1, b=B, threads=2)
        rebuilt = build(root / "rebuilt", contents, ids)
        assert counts == rebuilt["counts"]
        assert digest(root / "merged") == digest(root / "rebuilt")
        check_search(specs, rebuilt)


def check_search(specs: list[dict], rebuilt: dict) -> None:
    """Assert that segments with deletions give the hits and scores of an index without the deleted passages."""
    options = {"analyzer": "english", "k1": K1, "b": B}
    queries = ["cat dog", "running horses 東京", "eleven", "the"]
    results = [
        _bm25.Index(index, **options).search(queries, 20, threads=1, lucene=False, allow=None)
        for index in (specs, [rebuilt])
    ]
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_merging_large_segments(large: tuple[Path, list[str]], tmp_path: Path) -> None:
    _, contents = large
    ids = [f"id{i}" for i in range(len(contents))]
    two = build(tmp_path / "2", contents[40_000:], ids[40_000:])
    one = delete(build(tmp_path / "1", contents[:40_000], ids[:40_000]), range(100, 200), tmp_path / "deleted")
    (tmp_path / "merged").mkdir()
    _bm25.merge_segments([one, two], str(tmp_path / "merged"), k1=K1, b=B, threads=3)
    live = [i for i in range(len(contents)) if not 100 <= i < 200]
    build(tmp_path / "rebuilt", [contents[i] for i in live], [ids[i] for i in live])
    assert digest(tmp_path / "merged") == digest(tmp_path / "rebuilt")


def test_a_damaged_file_of_deletions_is_refused(tmp_path: Path) -> None:
    part = delete(build(tmp_path / "x", ["cat", "dog cat", "cat"]), [1], tmp_path / "deleted")
    assert part["deleted"] | {"checksum": 0} == {
        "file": str(tmp_path / "deleted"),
        "checksum": 0,
        "passages": 1,
        "tokens": 2,
        "non_empty": 1,
    }
    whole = (tmp_path / "deleted").read_bytes()
    assert len(whole) == 8 + 2 * 8
    for at in range(len(whole)):
        (tmp_path / "deleted").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="deleted: its checksum is wrong"):
            delete(part, [0], tmp_path / "next")
    (tmp_path / "deleted").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="deleted: its size is wrong"):
        delete(part, [0], tmp_path / "next")
    with pytest.raises(ValueError, match="no passage 3"):
        delete(part | {"deleted": None}, [3], tmp_path / "next")


def test_two_passages_of_one_id(tmp_path: Path) -> None:
    ids = [f"id{i}" for i in range(100)]
    ids[70], ids[60], ids[90] = "id3", "id2", "id1"
    with pytest.raises(KeyError) as caught:
        build(tmp_path / "x", ["cat"] * 100, ids)
    assert caught.value.args == ("id2", 2, 60)  # the first one that was there before


def test_errors_of_the_caller_and_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"texts\.bin"):
        _bm25.IndexBuilder(str(tmp_path / "no"), analyzer="english", k1=K1, b=B, threads=1, memory_bytes=1)
    options = {"analyzer": "english", "k1": K1, "b": B, "threads": 1, "memory_bytes": 1}
    builder = _bm25.IndexBuilder(str(tmp_path), **options)
    with pytest.raises(UnicodeEncodeError):
        builder.add(["a"], ["\ud800"])
    with pytest.raises(TypeError, match="str"):
        builder.add(["a"], [b"x"])
    with pytest.raises(ValueError, match="as many ids"):
        builder.add(["a"], [])
    builder.finish()
    with pytest.raises(ValueError, match="finish"):
        builder.add(["a"], ["b"])
    with pytest.raises(ValueError, match="finish"):
        builder.finish()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=60), st.sampled_from([pa.string(), pa.large_string()]), st.data())
def test_arrow_arrays_give_the_same_bytes(contents: list[str], kind: pa.DataType, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(contents)))
    part = contents[first:]
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        build(root / "strings", part)
        (root / "arrow").mkdir()
        builder = _bm25.IndexBuilder(str(root / "arrow"), analyzer="english", k1=K1, b=B, threads=1, memory_bytes=1)
        ids = pa.array([f"id{i}" for i in range(len(part))], pa.string())
        builder.add_arrow(ids, pa.array(contents, kind).slice(first))
        builder.finish()
        assert digest(root / "arrow") == digest(root / "strings")


def from_bytes(*values: bytes) -> pa.Array:
    """Return an array of strings with bytes that are not UTF-8."""
    offsets = np.cumsum([0] + [len(value) for value in values]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


@pytest.mark.parametrize(
    ("array", "error", "match"),
    [
        (pa.array(["a", None]), ValueError, r"contents\[1\] is null"),
        (pa.array(["x", None, "a", None]).slice(2), ValueError, r"contents\[1\] is null"),
        (pa.array([b"a", b"b"]), ValueError, "format 'z'"),
        (pa.array(["a", "b"]).dictionary_encode(), ValueError, "string or large_string"),
        (pa.chunked_array([["a", "b"]]), TypeError, "Arrow array"),
        (["a", "b"], TypeError, "Arrow array"),
        (pa.array(["a"]), ValueError, "as many ids"),
        (from_bytes(b"a", b"\xff"), ValueError, r"contents\[1\] is not UTF-8"),
        (from_bytes("é".encode()[:1], "é".encode()[1:]), ValueError, r"contents\[0\] is not UTF-8"),
    ],
)
def test_arrow_arrays_that_are_refused(tmp_path: Path, array: object, error: type[Exception], match: str) -> None:
    builder = _bm25.IndexBuilder(str(tmp_path), analyzer="english", k1=K1, b=B, threads=1, memory_bytes=1)
    with pytest.raises(error, match=match):
        builder.add_arrow(pa.array(["1", "2"]), array)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=12), st.text(max_size=8).map(lambda s: s.encode()[:-1])), st.binary(max_size=3))
def test_utf8_is_what_python_says(value: bytes, prefix: bytes) -> None:
    value = b"eightbit" + prefix + value
    try:
        value.decode()
        valid = True
    except UnicodeDecodeError:
        valid = False
    with TemporaryDirectory() as folder:
        builder = _bm25.IndexBuilder(folder, analyzer="english", k1=K1, b=B, threads=1, memory_bytes=1)
        try:
            builder.add_arrow(pa.array(["1"]), from_bytes(value))
            assert valid
        except ValueError:
            assert not valid


def test_page_checksums_are_over_every_file(tmp_path: Path) -> None:
    build(tmp_path / "x", synthetic(3000))
    files = [tmp_path / "x" / name for name in _bm25.segment_files()[:-1]]
    pages = [math.ceil(path.stat().st_size / 65536) for path in files]
    checks = (tmp_path / "x" / "checks.bin").read_bytes()
    assert len(checks) == 8 * sum(pages)
    (tmp_path / "page").write_bytes(files[0].read_bytes()[:65536])
    assert struct.unpack_from("<Q", checks)[0] == _bm25.checksum(str(tmp_path / "page"))
