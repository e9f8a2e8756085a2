"""`aslfast index`: building, searching and changing an index, and what is printed about it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from aslfast.cli.progress import Meter, printable
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index
from aslfast.index.options import MEMORY_MB

SAMPLE_LINES = 1000  # of a JSONL file, to guess how many it has
CHANGES = {"added": "passages", "deleted": "passages", "merged": "segments"}


def effort(threads: int | None, memory_mb: int | None) -> dict[str, int]:
    return {"threads": threads or 0, "memory_mb": memory_mb or MEMORY_MB}


def build(corpus: Sequence[Path], out: Path, options: Mapping[str, Any], quiet: bool) -> dict[str, Any]:
    started = time.perf_counter()
    with Meter("index", expected_passages(corpus), "passages", quiet) as meter:
        index = BM25Index.build(corpus, out, progress=meter.move_to, **options)
    seconds = time.perf_counter() - started
    return {
        "out": str(out),
        **asdict(index.statistics()),
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


def search(folder: Path, query: str, k: int, scores: Any) -> dict[str, Any]:
    index = BM25Index.open(folder)
    found = index.search([query], k, scores=scores)
    passages = index.passages(found.ids[0])
    hits = [
        {"rank": rank, "id": p.id, "score": float(score), "title": p.title, "contents": p.contents}
        for rank, (p, score) in enumerate(zip(passages, found.scores[0], strict=False), 1)
    ]
    return {"query": query, "hits": hits}


def print_hits(found: Mapping[str, Any]) -> None:
    if not found["hits"]:
        print("nothing found")
    for hit in found["hits"]:
        text = hit["contents"].partition("\n")[2] or hit["contents"]
        place = f"(id {hit['id']}, score {hit['score']:.3f})"
        print(printable(f"{hit['rank']}. {hit['title'] or hit['id']}  {place}\n   {' '.join(text.split())}"))


def info(folder: Path) -> dict[str, Any]:
    return {"index": str(folder), **asdict(BM25Index.open(folder).statistics())}


def print_info(told: Mapping[str, Any]) -> None:
    print(
        f"{told['index']}: {told['passages']:,} passages in {told['segments']} segments, {told['deleted']:,} deleted, "
        f"generation {told['generation']}\n"
        f"analyzer {told['analyzer']}, k1 {told['k1']:g}, b {told['b']:g}\n"
        f"{told['terms']:,} terms, {told['postings']:,} postings, {told['tokens']:,} tokens\n"
        f"{told['bytes'] / 1e6:,.1f} MB, {told['bytes_per_passage']:,.0f} bytes a passage"
    )
    for kind, size in told["bytes_by_kind"].items():
        print(f"  {kind:<9} {size / 1e6:>12,.1f} MB")


def verify(folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    index = BM25Index.open(folder)
    index.verify()
    told = index.statistics()
    seconds = time.perf_counter() - started
    return {"index": str(folder), "passages": told.passages, "bytes": told.bytes, "seconds": seconds}


def print_verified(verified: Mapping[str, Any]) -> None:
    print(
        f"{verified['index']}: sound; {verified['passages']:,} passages, {verified['bytes'] / 1e6:,.1f} MB "
        f"in {verified['seconds']:.1f} s"
    )


def add(folder: Path, corpus: Sequence[Path], effort: Mapping[str, int], quiet: bool) -> dict[str, Any]:
    index = BM25Index.open(folder)
    with Meter("add", expected_passages(corpus), "passages", quiet) as meter:
        added = index.add(corpus, progress=meter.move_to, **effort)
    return _changed(folder, "added", added, index)


def delete(folder: Path, ids: Sequence[str], ids_from: Path | None) -> dict[str, Any]:
    index = BM25Index.open(folder)
    deleted = index.delete([*ids, *(_read_ids(ids_from) if ids_from else [])])
    return _changed(folder, "deleted", deleted, index)


def merge(folder: Path, threads: int) -> dict[str, Any]:
    index = BM25Index.open(folder)
    before = index.statistics().segments
    index.merge(threads=threads)
    return _changed(folder, "merged", before, index)


def print_changed(changed: Mapping[str, Any]) -> None:
    done = next(f"{changed[what]:,} {unit} {what}" for what, unit in CHANGES.items() if what in changed)
    print(f"{changed['index']}: {done}; now {changed['passages']:,} passages, segments: {changed['segments']}")


def _changed(folder: Path, what: str, count: int, index: BM25Index) -> dict[str, Any]:
    told = index.statistics()
    return {
        "index": str(folder),
        what: count,
        "passages": told.passages,
        "segments": told.segments,
        "generation": told.generation,
    }


def _read_ids(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").split("\n") if line]
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; name a text file with an id in each line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not valid UTF-8 at byte {error.start}; save the file as UTF-8") from error
