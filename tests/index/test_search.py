"""The pruned search against scoring every passage, on an index of several windows with long lists and tiles."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from aslfast import _bm25

K1, B = 0.9, 0.4
PASSAGES = 150_000  # three windows, the last one partly filled
WORDS = 400


def zipf_texts(seed: int, n: int) -> list[str]:
    """Return short passages of made-up words with the skew of real text; neighbours share a rare word."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, WORDS + 1)
    lengths = rng.integers(0, 24, n)
    words = rng.choice(WORDS, size=int(lengths.sum()), p=share / share.sum())
    names = np.array([f"w{i}" for i in range(WORDS)])[words]
    ends = np.cumsum(lengths)
    return [
        " ".join(names[end - length : end]) + (f" topic{i // 20}" if length % 3 == 0 else "")
        for i, (end, length) in enumerate(zip(ends, lengths, strict=True))
    ]


def build_segment(folder: Path, texts: list[str], first: int = 0) -> _bm25.SegmentSpec:
    folder.mkdir()
    builder = _bm25.IndexBuilder(str(folder), analyzer="whitespace", k1=K1, b=B, threads=2, memory_bytes=1 << 30)
    builder.add([f"id{first + i}" for i in range(len(texts))], texts)
    counts = builder.finish()
    return {"folder": str(folder), "counts": counts, "checks": _bm25.checksum(f"{folder}/checks.bin"), "deleted": None}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return zipf_texts(0, PASSAGES)


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> _bm25.SegmentSpec:
    return build_segment(tmp_path_factory.mktemp("large") / "s", texts)


@pytest.fixture(scope="module")
def index(segment: _bm25.SegmentSpec) -> _bm25.Index:
    assert segment["counts"]["tiled"] > 100
    return _bm25.Index([segment], analyzer="whitespace", k1=K1, b=B)


def queries(seed: int, n: int) -> list[str]:
    """Return queries with frequent words, rare words, both, repeated ones, unknown ones and none."""
    rng = np.random.default_rng(seed)
    made = ["", "unknown", "w0", "w0 w0 w0 w1", "w399", "topic77", "w0 topic77 topic78"]
    while len(made) < n:
        size = int(rng.integers(1, 9))
        names = [f"w{int(i)}" for i in (WORDS * rng.random(size) ** 2)]
        if rng.random() < 0.3:
            names.append(f"topic{int(rng.integers(PASSAGES // 20))}")
        made.append(" ".join(names))
    return made


def assert_equal(
    index: _bm25.Index, asked: list[str], k: int, *, lucene: bool, allow: np.ndarray | None = None
) -> None:
    pruned = index.search(asked, k, threads=2, lucene=lucene, allow=allow)
    full = index.search(asked, k, threads=2, lucene=lucene, allow=allow, exhaustive=True)
    assert pruned[0] == full[0]
    assert np.array_equal(pruned[1].view(np.uint32), full[1].view(np.uint32))  # to the last bit
    assert np.array_equal(pruned[2], full[2])


@pytest.mark.parametrize("lucene", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10, 100, 3000])
def test_pruned_search_equals_scoring_everything(index: _bm25.Index, k: int, lucene: bool) -> None:
    assert_equal(index, queries(k, 300 if k <= 100 else 40), k, lucene=lucene)


@pytest.mark.parametrize("share", [0.5, 0.01, 0.0001])
def test_allowed_passages_alone_are_found(index: _bm25.Index, share: float) -> None:
    rng = np.random.default_rng(1)
    allow = rng.permutation(PASSAGES)[: int(PASSAGES * share)].astype(np.int32)
    assert_equal(index, queries(2, 120), 10, lucene=False, allow=allow)
    found = index.search(queries(2, 120), 10, threads=1, lucene=False, allow=allow)[2]
    assert set(found[found >= 0].tolist()) <= set(allow.tolist()) and (found >= 0).any()


def test_every_set_of_vector_instructions_gives_the_same(index: _bm25.Index) -> None:
    names = _bm25.simd_names()
    results = []
    try:
        for name in names:
            _bm25.use_simd(name)
            results.append(index.search(queries(3, 300), 10, threads=1, lucene=False, allow=None))
    finally:
        _bm25.use_simd(names[-1])
    for result in results:
        assert result[0] == results[0][0] and np.array_equal(result[1], results[0][1])
    with pytest.raises(ValueError, match="no mmx"):
        _bm25.use_simd("mmx")


def test_a_query_of_more_terms_than_bounds_can_hold(index: _bm25.Index) -> None:
    everything = " ".join([f"w{i}" for i in range(WORDS)] + [f"topic{i}" for i in range(PASSAGES // 20)])
    assert_equal(index, [everything, everything[: len(everything) // 8]], 10, lucene=False)


def test_segments_score_as_one_index(index: _bm25.Index, texts: list[str], tmp_path: Path) -> None:
    """Cut unevenly, so that the segments' mean lengths differ from the whole's and impacts have drifted."""
    by_length = sorted(range(PASSAGES), key=lambda i: len(texts[i]))
    cuts = [by_length[:100_000], by_length[100_000:149_990], by_length[149_990:]]
    specs, first = [], 0
    for number, cut in enumerate(cuts):
        specs.append(build_segment(tmp_path / str(number), [texts[i] for i in cut], first))
        first += len(cut)
    whole = build_segment(tmp_path / "whole", [texts[i] for i in by_length])
    parts = _bm25.Index(specs, analyzer="whitespace", k1=K1, b=B)
    one = _bm25.Index([whole], analyzer="whitespace", k1=K1, b=B)
    for lucene in (False, True):
        assert_equal(parts, queries(4, 150), 10, lucene=lucene)
        got = parts.search(queries(4, 150), 10, threads=2, lucene=lucene, allow=None)
        wanted = one.search(queries(4, 150), 10, threads=2, lucene=lucene, allow=None)
        assert np.array_equal(got[1], wanted[1]) and np.array_equal(got[2], wanted[2])


def test_threads_share_an_index(index: _bm25.Index) -> None:
    asked = queries(5, 100)
    wanted = index.search(asked, 10, threads=1, lucene=False, allow=None)
    failures: list[str] = []

    def search_often(threads: int) -> None:
        for _ in range(5):
            got = index.search(asked, 10, threads=threads, lucene=False, allow=None)
            if got[0] != wanted[0] or not np.array_equal(got[1], wanted[1]):
                failures.append(f"{threads} threads")

    workers = [threading.Thread(target=search_often, args=(1 + i % 3,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
