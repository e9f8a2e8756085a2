"""`aslfast index build` and `aslfast index search`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from aslfast.console import Meter, printable
from aslfast.index import BM25Index

SAMPLE_LINES = 1000  # of a JSONL file, to guess how many it has


def build(corpus: Sequence[Path], out: Path, threads: int, quiet: bool) -> dict[str, Any]:
    started = time.perf_counter()
    with Meter("index", expected_passages(corpus), "passages", quiet) as meter:
        index = BM25Index.build(corpus, out, threads=threads, progress=meter.move_to)
    seconds = time.perf_counter() - started
    size = sum(file.stat().st_size for file in out.iterdir())
    return {
        "out": str(out),
        **index.meta["counts"],
        "bytes": size,
        "seconds": seconds,
        "passages_per_s": len(index) / seconds,
    }


def expected_passages(corpus: Sequence[Path]) -> float | None:
    """For the time left alone: exact for Parquet, from the first lines' mean length for JSONL; None if unreadable."""
    try:
        return sum(_expected(file) for file in corpus)
    except (OSError, ValueError):  # the reader says what is wrong, and where
        return None


def _expected(file: Path) -> float:
    if file.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_metadata(file).num_rows
    with file.open("rb") as lines:
        lengths = [len(line) for line in islice(lines, SAMPLE_LINES)]
    return file.stat().st_size * len(lengths) / max(sum(lengths), 1)


def print_built(built: Mapping[str, Any]) -> None:
    print(
        f"{built['out']}: {built['passages']:,} passages, {built['terms']:,} terms, {built['bytes'] / 1e6:,.1f} MB, "
        f"{built['seconds']:.1f} s ({built['passages_per_s']:,.0f} passages/s)"
    )


def search(folder: Path, query: str, k: int) -> dict[str, Any]:
    index = BM25Index.open(folder)
    ids, scores = index.search([query], k)
    passages = index.passages(ids[0])
    hits = [
        {"rank": rank, "id": p.id, "score": float(score), "title": p.title, "contents": p.contents}
        for rank, (p, score) in enumerate(zip(passages, scores[0], strict=False), 1)
    ]
    return {"query": query, "hits": hits}


def print_hits(found: Mapping[str, Any]) -> None:
    if not found["hits"]:
        print("nothing found")
    for hit in found["hits"]:
        text = hit["contents"].partition("\n")[2] or hit["contents"]
        place = f"(id {hit['id']}, score {hit['score']:.3f})"
        print(printable(f"{hit['rank']}. {hit['title'] or hit['id']}  {place}\n   {' '.join(text.split())}"))
