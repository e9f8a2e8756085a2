"""The index against a plain Python BM25; its arguments; and what a build leaves behind."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast.data.corpus import Passage
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index, analyze
from tests.support.index.plain_bm25 import PlainBM25, hits, lucene_length

WORDS = ["cat", "cats", "dog", "running", "the", "Zürich", "x1", "東京", "of"]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
long_texts = st.lists(st.sampled_from(WORDS), min_size=30, max_size=90).map(" ".join)
analyzers = st.sampled_from(["english", "simple", "cjk", "whitespace"])


def numbered(contents: list[str]) -> list[Passage]:
    return [Passage(f"id{i}", text) for i, text in enumerate(contents)]


def build(folder: Path, contents: list[str], **options: float) -> BM25Index:
    shutil.rmtree(folder, ignore_errors=True)
    return BM25Index.build(numbered(contents), folder, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


@settings(max_examples=60, deadline=None)
@given(
    corpus=st.lists(st.one_of(texts, texts, long_texts), min_size=1, max_size=20),
    queries=st.lists(texts, min_size=1, max_size=5),
    k=st.integers(1, 25),
    k1=st.floats(0, 3),
    b=st.floats(0, 1),
    analyzer=analyzers,
)
def test_hits_are_those_of_a_plain_bm25(
    folder: Path, corpus: list[str], queries: list[str], k: int, k1: float, b: float, analyzer: str
) -> None:
    index = build(folder / "x", corpus, k1=k1, b=b, analyzer=analyzer)
    plain = PlainBM25(numbered(corpus), k1, b, analyzer)
    for query in queries:
        for scores in ("exact", "lucene"):
            assert hits(index, query, k, scores=scores) == plain.search(query, k, scores)


def test_a_score_by_hand(folder: Path) -> None:
    result = build(folder / "x", ["cat cat dog", "dog", "bird"]).search(["cats cat"])
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    norm = 0.9 * (1 - 0.4 + 0.4 * 3 / (5 / 3))
    assert result.scores[0, 0] == pytest.approx(2 * idf * 2 / (2 + norm), rel=1e-6)
    assert result.ids == [["id0"]]


def test_lucene_lengths() -> None:
    """As in the table of SmallFloat.byte4ToInt: exact below 40, then steps of 2, 4, 8, ..."""
    known = {0: 0, 39: 39, 40: 40, 41: 40, 42: 42, 55: 54, 56: 56, 59: 56, 60: 60, 100: 96, 1000: 984}
    assert {length: lucene_length(length) for length in known} == known


def test_lucene_scores_differ_where_its_length_does(folder: Path) -> None:
    index = build(folder / "x", ["cat" + " dog" * 40, "cat" + " dog" * 39, "dog"])
    (_, first), (_, second) = hits(index, "cat", 2, scores="lucene")
    assert first == second  # 41 and 40 terms
    (best, first), (_, second) = hits(index, "cat", 2)
    assert best == "id1" and first > second


def test_shape_padding_and_pair(folder: Path) -> None:
    index = build(folder / "x", ["cat", "dog", "cat"])
    result = index.search(["cat", "unknown", "", "the"], k=5)
    ids, scores = result
    assert ids == [["id0", "id2"], [], [], []]
    assert scores.dtype == np.float32 and result.docs.dtype == np.int32
    assert result.docs.tolist() == [[0, 2, -1, -1, -1]] + [[-1] * 5] * 3
    assert (scores > 0).tolist() == [[True, True, False, False, False]] + [[False] * 5] * 3
    assert index.search([], k=3).scores.shape == (0, 3)


def test_ties_go_to_the_earlier_passage_across_windows(folder: Path) -> None:
    index = build(folder / "x", ["other cat"] + ["dog"] * 70_000 + ["dog dog"])  # windows hold 65,536 passages
    docs = index.search(["dog", "cat"], k=4).docs
    assert docs[0].tolist() == [70_001, 1, 2, 3]
    assert docs[1].tolist() == [0, -1, -1, -1]


def random_corpus(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(500)]
    return [" ".join(rng.choice(vocabulary, rng.integers(1, 60))) for _ in range(n)]


def test_threads_and_batches_change_nothing(folder: Path) -> None:
    corpus = random_corpus(9000)  # more than one batch
    build(folder / "one", corpus, threads=1)
    build(folder / "many", corpus, threads=3)
    one, many = BM25Index.open(folder / "one"), BM25Index.open(folder / "many")
    assert (folder / "one" / "meta.json").read_bytes() == (folder / "many" / "meta.json").read_bytes()  # checksums too
    queries = corpus[:50]
    a, b = one.search(queries, 20, threads=1), many.search(queries, 20, threads=4)
    single = [one.search([query], 20) for query in queries]
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(a.docs, b.docs)
    np.testing.assert_array_equal(a.docs, np.concatenate([result.docs for result in single]))


@settings(max_examples=30, deadline=None)
@given(st.lists(texts, min_size=1, max_size=20), texts, st.sets(st.integers(0, 19)), st.integers(1, 25))
def test_a_filter_leaves_scores_as_they_are(
    folder: Path, corpus: list[str], query: str, chosen: set[int], k: int
) -> None:
    index = build(folder / "x", corpus)
    allow = [f"id{i}" for i in chosen if i < len(corpus)]
    expected = [hit for hit in PlainBM25(numbered(corpus)).search(query, len(corpus)) if hit[0] in allow]
    assert hits(index, query, k, allow=iter(allow * 2)) == expected[:k]


def test_a_filter_names_unknown_ids(folder: Path) -> None:
    with pytest.raises(UserError, match="no passage has the id 'nobody'"):
        build(folder / "x", ["cat"]).search(["cat"], allow=["id0", "nobody"])


def test_a_very_long_query(folder: Path) -> None:
    corpus = random_corpus(200)
    index = build(folder / "x", corpus)
    words = np.random.default_rng(1).choice([f"w{i}" for i in range(1000)], 100_000)
    query = " ".join(words)
    assert hits(index, query, 300) == PlainBM25(numbered(corpus)).search(query, 300)
    assert hits(index, "x" * 1_000_000, 1) == []


def test_passages_come_back(folder: Path) -> None:
    contents = ["", '"Title"\nText \x00 東京 😀', "x" * 100_000]
    build(folder / "x", contents)
    index = BM25Index.open(str(folder / "x"))
    assert len(index) == 3
    assert index.passages(["id2", "id0", "id1", "id0"]) == [Passage(f"id{i}", contents[i]) for i in (2, 0, 1, 0)]
    assert index.passages([]) == []
    with pytest.raises(UserError, match="no passage has the id 'id3'"):
        index.passages(["id1", "id3"])


def test_builds_from_files_with_progress(tmp_path: Path) -> None:
    lines = [json.dumps({"id": i, "contents": f"word{i}"}) + "\n" for i in range(10_000)]
    (tmp_path / "a.jsonl").write_text("".join(lines[:9000]))
    (tmp_path / "b.jsonl").write_text("".join(lines[9000:]))
    done: list[int] = []
    index = BM25Index.build([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "x", progress=done.append)
    assert done == [9000, 10_000]
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
        ({"analyzer": "german"}, "unknown analyzer 'german'; use one of english, simple, cjk, whitespace"),
        ({"threads": -2}, "threads is -2"),
        ({"memory_mb": 0}, "memory_mb is 0; use 16 to"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, float], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        build(tmp_path / "x", ["cat"], **options)
    assert os.listdir(tmp_path) == []


def test_bad_passages_leave_nothing_behind(tmp_path: Path) -> None:
    for passage, problem in [
        (Passage("a", "\ud800"), "passages 1 to 1: '\\\\ud800' has a lone surrogate"),
        (Passage("a", 1), "expected a sequence of str"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(UserError, match=problem):
            BM25Index.build([passage], tmp_path / "x")
    with pytest.raises(UserError, match="no passages"):
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


def test_leftovers_of_killed_builds_are_removed(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    names = {
        f".x.{int(dead.stdout)}.partial": False,  # of a process that is gone
        f".x.{os.getpid()}.partial": False,  # of a process of an earlier container, with the number we have
        f".x.{os.getppid()}.partial": True,  # of a process that runs
        f".xx.{int(dead.stdout)}.partial": True,  # of another index
        ".x.backup.partial": True,
    }
    for name in names:
        (tmp_path / name / "segment-1").mkdir(parents=True)
    assert len(build_over(tmp_path / "x")) == 1
    assert sorted(os.listdir(tmp_path)) == sorted(["x", *(name for name, kept in names.items() if kept)])


@pytest.mark.parametrize("limit", [100, 3000, 40_000])  # stops another file each time
def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match=r"x: cannot be written .*free the space"):
            BM25Index.build([Passage(f"{i:050}", f"{i}") for i in range(1000)], tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_search_arguments(folder: Path) -> None:
    index = build(folder / "x", ["cat dog", "dog"])
    for problem, options in [("k is 0", {"k": 0}), ("threads is -1", {"threads": -1}), ("'bm11'", {"scores": "bm11"})]:
        with pytest.raises(UserError, match=problem):
            index.search(["cat"], **options)  # type: ignore[arg-type]
    for call in (index.search, index.passages, index.delete):
        with pytest.raises(TypeError, match="not one str"):
            call("cat")  # type: ignore[operator]
    assert index.search(["cat\ud800"]).ids == [["id0"]]  # what a model may write is data
    assert analyze("Running dogs", "whitespace") == ["Running", "dogs"]
    with pytest.raises(UserError, match="unknown analyzer 'x'"):
        analyze("cat", "x")


def test_statistics(folder: Path) -> None:
    index = build(folder / "x", ["cat dog dog", "dog", ""], k1=1.2, b=0.75)
    s = index.statistics()
    assert (s.passages, s.tokens, s.non_empty, s.terms, s.postings) == (3, 4, 2, 2, 3)
    assert (s.segments, s.deleted, s.analyzer, s.k1, s.b) == (1, 0, "english", 1.2, 0.75)
    files = {file.stem: file.stat().st_size for file in (folder / "x" / "segment-1").iterdir()}
    assert s.bytes_by_kind == files and s.bytes == sum(files.values())
    assert s.bytes_per_passage == s.bytes / 3


def test_the_index_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from aslfast.index import BM25Index; from aslfast.data.corpus import Passage\n"
        f"print(BM25Index.build([Passage('a', 'cats')], {str(tmp_path / 'x')!r}).search(['cat']).ids)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[['a']]\n", "")
