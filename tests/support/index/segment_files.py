"""Segments built by the core, and their files read in Python (csrc/storage/format.hpp)."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aslfast import _bm25

K1, B = 0.9, 0.4


def build(folder: Path, contents: Sequence[str], ids: Sequence[str] | None = None, **options: int) -> dict:
    """Build a segment; return its spec. Options: threads, memory_bytes, batch."""
    folder.mkdir()
    ids = ids if ids is not None else [f"id{i}" for i in range(len(contents))]
    batch = options.pop("batch", 1000)
    settings = {"threads": 2, "memory_bytes": 1 << 30} | options
    builder = _bm25.IndexBuilder(str(folder), analyzer="english", k1=K1, b=B, **settings)
    for at in range(0, len(contents), batch):
        builder.add(ids[at : at + batch], contents[at : at + batch])
    return spec(folder, builder.finish())


def spec(folder: Path, counts: dict[str, int]) -> dict:
    """Return the spec of a segment without deletions."""
    checks = _bm25.checksum(str(folder / "checks.bin"))
    return {"folder": str(folder), "counts": counts, "checks": checks, "deleted": None}


def digest(folder: Path) -> list[tuple[str, str]]:
    """Return name and SHA-256 of every file."""
    return sorted((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in folder.iterdir())


def up64(size: int) -> int:
    return (size + 63) // 64 * 64


class Sections:
    """A file whose arrays are taken in order, each at a multiple of 64 bytes."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, dtype: str | list, n: int) -> np.ndarray:
        self.at = up64(self.at)
        array = np.frombuffer(self.data, dtype, n, self.at)
        self.at += array.nbytes
        return array

    def end(self) -> None:
        assert len(self.data) - self.at >= 64 and not any(self.data[self.at :])


def slot_count(n: int) -> int:
    slots = 16
    while slots * 2 < n * 3:
        slots *= 2
    return slots


def read_postings(folder: Path, counts: dict[str, int]) -> dict[str, list[tuple[int, int, int]]]:
    """Return (passage, count, impact) of every term's postings; check the redundant parts of the files on the way."""
    v, p = counts["terms"], counts["postings"]
    file = Sections(folder / "terms.bin")
    terms = file.take([("name", "u8"), ("window", "u8"), ("tiles", "u8"), ("posting", "u8")], v + 1)
    slots = file.take("u4", slot_count(v))
    names = file.take("u1", int(terms["name"][v])).tobytes()
    file.end()
    file = Sections(folder / "windows.bin")
    windows = file.take([("end", "u4"), ("number", "u2"), ("highest", "u1"), ("zero", "u1")], counts["windows"])
    file.end()
    file = Sections(folder / "postings.bin")
    docs, impacts, tf = file.take("u2", p), file.take("u1", p), file.take("u1", p)
    big = dict(file.take([("posting", "u8"), ("count", "u8")], counts["big_counts"]).tolist())
    file.end()
    tiles = read_tiles(folder, counts)
    lists: dict[str, list[tuple[int, int, int]]] = {}
    n_tiles = 0
    for i in range(v):
        assert terms["tiles"][i] == n_tiles
        start, first, stop = int(terms["posting"][i]), int(terms["window"][i]), int(terms["window"][i + 1])
        entries: list[tuple[int, int, int]] = []
        for w in range(first, stop):
            begin, end = start + len(entries), start + int(windows["end"][w])
            assert windows["highest"][w] == impacts[begin:end].max()
            if end - begin >= 1024:
                expected = np.zeros(2048, np.uint8)
                np.maximum.at(expected, docs[begin:end] >> 5, impacts[begin:end])
                highest, starts = tiles[n_tiles]
                n_tiles += 1
                assert (highest == expected).all()
                assert (starts == np.searchsorted(docs[begin:end], np.arange(512) * 128)).all()
            for at in range(begin, end):
                count = big[at] if tf[at] == 255 else int(tf[at])
                entries.append((int(windows["number"][w]) << 16 | int(docs[at]), count, int(impacts[at])))
        assert start + len(entries) == terms["posting"][i + 1]
        lists[names[int(terms["name"][i]) : int(terms["name"][i + 1])].decode()] = entries
    assert n_tiles == len(tiles) and list(lists) == sorted(lists, key=str.encode)
    assert sorted(slots[slots != 0xFFFFFFFF]) == list(range(v))
    return lists


def read_tiles(folder: Path, counts: dict[str, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    file = Sections(folder / "tiles.bin")
    rows = file.take("u1", 3072 * counts["tiled"]).reshape(-1, 3072)
    tiles = [(row[:2048], row[2048:].view("<u2")) for row in rows]
    file.end()
    return tiles


def expected_postings(contents: Sequence[str]) -> dict[str, list[tuple[int, int, int]]]:
    """Count the postings of every term in plain Python."""
    bags = [Counter(_bm25.analyze(text, "english")) for text in contents]
    lengths = [sum(bag.values()) for bag in bags]
    non_empty = sum(length > 0 for length in lengths)
    lists: dict[str, list[tuple[int, int, int]]] = {}
    for doc, bag in enumerate(bags):
        norm = K1 * (1 - B) + K1 * B * max(non_empty, 1) / max(sum(lengths), 1) * lengths[doc]
        for term, count in bag.items():
            lists.setdefault(term, []).append((doc, count, math.ceil(255.0 * count / (count + norm))))
    return lists


def check_segment(folder: Path, contents: Sequence[str], ids: Sequence[str], counts: dict[str, int]) -> None:
    """Assert that every file of a segment holds what a plain count gives."""
    expected = expected_postings(contents)
    assert read_postings(folder, counts) == expected
    lengths = [len(_bm25.analyze(text, "english")) for text in contents]
    assert counts["tokens"] == sum(lengths) and counts["non_empty"] == sum(length > 0 for length in lengths)
    file = Sections(folder / "passages.bin")
    assert file.take("u4", len(ids)).tolist() == lengths
    offsets = file.take("u8", len(ids) + 1)
    file.take("u4", slot_count(len(ids)))
    names = file.take("u1", int(offsets[-1])).tobytes()
    assert [names[a:b].decode() for a, b in itertools.pairwise(offsets)] == list(ids)
    file.end()
    index = _bm25.Index([spec(folder, counts)], analyzer="english", k1=K1, b=B)
    index.verify()
    assert index.find(list(ids)).tolist() == list(range(len(ids)))
    assert index.contents(np.arange(len(ids))) == list(contents)
