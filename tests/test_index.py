"""The index against a plain Python BM25, on disk and back, and against every kind of damage."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast.corpus import Passage
from aslfast.errors import UserError
from aslfast.index import BM25Index, analyze

WORDS = ["cat", "cats", "dog", "running", "the", "Zürich", "x1", "東京", "of"]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


def naive_scores(corpus: list[str], query: str, k1: float, b: float) -> np.ndarray:
    """Lucene's BM25 in double precision, one passage at a time; 0 where no term matches."""
    docs = [Counter(analyze(text)) for text in corpus]
    lengths = [sum(doc.values()) for doc in docs]
    n = sum(length > 0 for length in lengths)
    mean = sum(lengths) / max(n, 1)
    scores = np.zeros(len(corpus))
    for term in analyze(query):
        df = sum(term in doc for doc in docs)
        for i, doc in enumerate(docs):
            if term in doc:
                idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
                scores[i] += idf * doc[term] / (doc[term] + k1 * (1 - b + b * lengths[i] / mean))
    return scores


def build(folder: Path, contents: list[str], **options: float) -> BM25Index:
    shutil.rmtree(folder, ignore_errors=True)
    return BM25Index.build((Passage(f"id{i}", text) for i, text in enumerate(contents)), folder, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=20), texts, st.floats(0, 3), st.floats(0, 1))
def test_scores_are_those_of_a_plain_bm25(folder: Path, corpus: list[str], query: str, k1: float, b: float) -> None:
    result = build(folder / "x", corpus, k1=k1, b=b).search([query], k=len(corpus))
    expected = naive_scores(corpus, query, k1, b)
    found = np.zeros(len(corpus))
    for doc, score in zip(result.docs[0], result.scores[0], strict=True):
        if doc >= 0:
            found[doc] = score
    np.testing.assert_allclose(found, expected, rtol=2e-6)  # a dozen float32 roundings of 6e-8 each
    assert (found > 0).tolist() == (expected > 0).tolist()
    assert result.ids[0] == [f"id{doc}" for doc in result.docs[0] if doc >= 0]


def test_a_score_by_hand(folder: Path) -> None:
    result = build(folder / "x", ["cat cat dog", "dog", "bird"]).search(["cats cat"])
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    norm = 0.9 * (1 - 0.4 + 0.4 * 3 / (5 / 3))
    assert result.scores[0, 0] == pytest.approx(2 * idf * 2 / (2 + norm), rel=1e-6)
    assert result.ids == [["id0"]]


def test_shape_padding_and_pair(folder: Path) -> None:
    index = build(folder / "x", ["cat", "dog", "cat"])
    result = index.search(["cat", "unknown", "", "the"], k=5)
    ids, scores = result
    assert ids == [["id0", "id2"], [], [], []]
    assert scores.dtype == np.float32 and result.docs.dtype == np.int32
    assert result.docs.tolist() == [[0, 2, -1, -1, -1]] + [[-1] * 5] * 3
    assert (scores > 0).tolist() == [[True, True, False, False, False]] + [[False] * 5] * 3
    assert index.search([], k=3).scores.shape == (0, 3)


def test_ties_go_to_the_earlier_passage_across_blocks(folder: Path) -> None:
    index = build(folder / "x", ["other cat"] + ["dog"] * 70_000 + ["dog dog"])  # blocks hold 32,768 passages
    docs = index.search(["dog", "cat"], k=4).docs
    assert docs[0].tolist() == [70_001, 1, 2, 3]
    assert docs[1].tolist() == [0, -1, -1, -1]


def random_corpus(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(500)]
    return [" ".join(rng.choice(vocabulary, rng.integers(1, 60))) for _ in range(n)]


def test_threads_and_batches_change_nothing(folder: Path) -> None:
    corpus = random_corpus(9000)  # more than one batch
    one, many = build(folder / "one", corpus, threads=1), build(folder / "many", corpus, threads=3)
    assert one.meta == many.meta  # with the checksums of all files
    queries = corpus[:50]
    a, b = one.search(queries, 20, threads=1), many.search(queries, 20, threads=4)
    single = [one.search([query], 20) for query in queries]
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(a.docs, b.docs)
    np.testing.assert_array_equal(a.docs, np.concatenate([result.docs for result in single]))


def test_python_threads_share_an_index(folder: Path) -> None:
    index = build(folder / "x", random_corpus(300))
    expected = index.search(["w1 w2 w3"]).ids
    found: list[list[list[str]]] = []
    threads = [threading.Thread(target=lambda: found.append(index.search(["w1 w2 w3"]).ids)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_passages_come_back(folder: Path) -> None:
    contents = ["", '"Title"\nText \x00 東京 😀', "x" * 100_000]
    build(folder / "x", contents)
    index = BM25Index.open(str(folder / "x"))
    assert len(index) == 3
    assert index.passages(["id2", "id0", "id1", "id0"]) == [Passage(f"id{i}", contents[i]) for i in (2, 0, 1, 0)]
    with pytest.raises(UserError, match="no passage has the id 'id3'"):
        index.passages(["id1", "id3"])


def test_builds_from_files_with_progress(tmp_path: Path) -> None:
    lines = [json.dumps({"id": i, "contents": f"word{i}"}) + "\n" for i in range(10_000)]
    (tmp_path / "a.jsonl").write_text("".join(lines[:9000]))
    (tmp_path / "b.jsonl").write_text("".join(lines[9000:]))
    done: list[int] = []
    index = BM25Index.build([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "x", progress=done.append)
    assert done == [8192, 10_000]
    assert index.search(["word9500"]).ids == [["9500"]]
    assert len(BM25Index.build(str(tmp_path / "b.jsonl"), tmp_path / "deep" / "y")) == 1000


def test_duplicate_ids_are_named_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "contents": ""}\n{"id": 2, "contents": ""}\n')
    (tmp_path / "b.jsonl").write_text('\n{"id": "2", "contents": ""}\n')
    with pytest.raises(UserError, match=r"b.jsonl:2: id '2' is also that of .*a.jsonl:2"):
        BM25Index.build([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "x")
    with pytest.raises(UserError, match="passage 3: id 'a' is also that of passage 1"):
        BM25Index.build([Passage("a", ""), Passage("b", ""), Passage("a", "")], tmp_path / "x")
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"k1": -1.0}, "k1 is -1"),
        ({"k1": math.inf}, "k1 is inf"),
        ({"b": 1.5}, "b is 1.5"),
        ({"b": math.nan}, "b is nan"),
        ({"analyzer": "german"}, "unknown analyzer 'german'; use one of english"),
        ({"threads": -2}, "threads is -2"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, float], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        build(tmp_path / "x", ["cat"], **options)
    assert os.listdir(tmp_path) == []


def test_bad_passages_leave_nothing_behind(tmp_path: Path) -> None:
    for passage, problem in [
        (Passage("a", "\ud800"), "lone surrogate"),
        (Passage("a", 1), "expected a list of str"),  # type: ignore[arg-type]
        (Passage("a", "cat " * 70_000), "more than 65,535 times"),
    ]:
        with pytest.raises(UserError, match=problem):
            BM25Index.build([passage], tmp_path / "x")
    with pytest.raises(UserError, match="no corpus file"):
        BM25Index.build([], tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_an_existing_place_is_kept(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("data")
    with pytest.raises(UserError, match="full: already exists"):
        build_over(tmp_path / "full")
    with pytest.raises(UserError, match="already exists"):
        build_over(tmp_path / "full" / "precious")
    assert (tmp_path / "full" / "precious").read_text() == "data"
    (tmp_path / "empty").mkdir()
    assert len(build_over(tmp_path / "empty")) == 1


def build_over(folder: Path) -> BM25Index:
    return BM25Index.build([Passage("a", "cat")], folder)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def passages() -> Iterator[Passage]:
        yield from (Passage(str(i), "cat") for i in range(9000))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BM25Index.build(passages(), tmp_path / "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("limit", [100, 3000, 40_000])  # stops another file each time
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match=r"x: cannot be written .*free the space"):
            BM25Index.build([Passage(f"{i:050}", f"{i}") for i in range(1000)], tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build(tmp_path / "x", ["cat dog", "dog", "bird", ""])
    return tmp_path / "x"


def open_error(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        BM25Index.open(folder)
    return str(caught.value)


FILES = ["terms.bin", "postings.bin", "passages.bin", "contents.bin"]


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_named(saved: Path, name: str) -> None:
    file = saved / name
    good = file.read_bytes()
    for bad in (b"", good[:-1], good + b"\0"):
        file.write_bytes(bad)
        assert f"{name}: {len(bad)} bytes, expected {len(good)}; the index is damaged" in open_error(saved)
    for at in range(len(good)):  # every byte counts
        file.write_bytes(good[:at] + bytes([good[at] ^ 0x80]) + good[at + 1 :])
        assert f"{name}: " in open_error(saved) and "build it again" in open_error(saved)
    file.unlink()
    assert f"{name}: missing" in open_error(saved)


@pytest.mark.parametrize("key", ["passages", "terms", "postings"])
@pytest.mark.parametrize("value", [0, 1, 5, 1000, 2**31, 2**61])
def test_wrong_counts_never_crash(saved: Path, key: str, value: int) -> None:
    meta = json.loads((saved / "meta.json").read_text())
    meta["counts"][key] = value
    (saved / "meta.json").write_text(json.dumps(meta))
    assert "the index is damaged: build it again" in open_error(saved)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "lucene"}, "its format is not 'aslfast-bm25'"),
        ({"version": 2}, "version 2, this aslfast reads 1: build the index again"),
        ({"counts": None}, "fields are missing"),
        ({"counts": {"passages": 4}}, "fields are missing"),
        ({"k1": "0.9"}, "fields are missing"),
        ({"files": {}}, "fields are missing"),
    ],
)
def test_a_wrong_meta_is_told(saved: Path, change: dict[str, object], problem: str) -> None:
    meta = json.loads((saved / "meta.json").read_text())
    (saved / "meta.json").write_text(json.dumps(meta | change))
    assert "meta.json: " in open_error(saved) and problem in open_error(saved)


def test_not_an_index(tmp_path: Path) -> None:
    assert "is not an index" in open_error(tmp_path)
    assert "is not an index" in open_error(tmp_path / "nothing")
    (tmp_path / "meta.json").write_text("{")
    assert "meta.json: not JSON" in open_error(tmp_path)
    (tmp_path / "meta.json").write_text("[]")
    assert "its format is not" in open_error(tmp_path)


def test_search_arguments(saved: Path) -> None:
    index = BM25Index.open(saved)
    with pytest.raises(UserError, match="k is 0"):
        index.search(["cat"], k=0)
    with pytest.raises(TypeError):
        index.search("cat")  # type: ignore[arg-type]
    assert index.search(["cat\ud800"]).ids == [["id0"]]  # what a model may write is data
