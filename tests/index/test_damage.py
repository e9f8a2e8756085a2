"""A damaged index: an error that names the file, or the right answer, never a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aslfast.data.corpus import Passage
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index
from aslfast.index.manifest import read_manifest
from tests.support.index.plain_bm25 import PlainBM25, hits

PASSAGES = [Passage(f"id{i}", f"cat w{i % 7} " + "dog " * (i % 5)) for i in range(24)]
LIVE = [passage for passage in PASSAGES if passage.id not in ("id3", "id22")]
QUERY = "cat w3 dog"
EXPECTED = PlainBM25(LIVE).search(QUERY, 50)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An index of two segments, a passage of each deleted."""
    index = BM25Index.build(PASSAGES[:20], tmp_path / "x")
    index.add(PASSAGES[20:])
    index.delete(["id3", "id22"])
    return tmp_path / "x"


def files_of(index: Path) -> list[Path]:
    return [index / name for name in read_manifest(index).sizes()]


def use(folder: Path) -> None:
    """Use every function. Raises UserError; any answer must be right."""
    index = BM25Index.open(folder)
    assert hits(index, QUERY, 50) == EXPECTED
    assert index.passages([passage.id for passage in LIVE]) == LIVE


def error_of(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        BM25Index.open(folder).verify()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_byte_of_every_file(saved: Path) -> None:
    refused = answered = 0
    for file in files_of(saved):
        good = file.read_bytes()
        for at in range(len(good)):
            file.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
            message = error_of(saved)
            assert file.name in message and message.endswith("the index is damaged: build it again")
            try:
                use(saved)
                answered += 1
            except UserError as error:
                assert "the index is damaged: build it again" in str(error)
                refused += 1
        file.write_bytes(good)
    use(saved)
    assert refused > 10 * answered


def test_every_byte_of_the_manifest(saved: Path) -> None:
    file = saved / "meta.json"
    good = file.read_bytes()
    for at in range(len(good)):
        file.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        assert "meta.json: " in error_of(saved)
    for bad in (b"", good[: len(good) // 2], good[:-1], good + b"\n", good.replace(b"  ", b"", 1)):
        file.write_bytes(bad)
        assert "meta.json: " in error_of(saved)


def test_files_of_a_wrong_size_are_named(saved: Path) -> None:
    for file in files_of(saved):
        good = file.read_bytes()
        for bad in {b"", good[:1], good[: len(good) // 2], good[:-1], good + b"\0"} - {good}:
            file.write_bytes(bad)
            assert f"{file}: {len(bad)} bytes, expected {len(good)}; the index is damaged" in error_of(saved)
        file.unlink()
        assert f"{file}: missing; the index is damaged: build it again" in error_of(saved)
        file.write_bytes(good)
    use(saved)


def test_a_page_that_goes_bad_while_the_index_is_open(saved: Path) -> None:
    index = BM25Index.open(saved)
    file = saved / "segment-1" / "texts.bin"
    with file.open("r+b") as texts:
        texts.seek(10)
        texts.write(b"\xff\xff")
    with pytest.raises(UserError, match=r"segment-1/texts.bin: .*; the index is damaged: build it again"):
        index.passages(["id0"])
    assert hits(index, QUERY, 50) == EXPECTED  # needs no texts


def test_a_damaged_segment_is_not_merged(saved: Path) -> None:
    index = BM25Index.open(saved)
    before = (saved / "meta.json").read_bytes()
    file = saved / "segment-2" / "postings.bin"
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    with pytest.raises(UserError, match=r"segment-2/postings.bin: .*the index is damaged: build it again"):
        index.merge()
    assert (saved / "meta.json").read_bytes() == before
    assert not (saved / "segment-4").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "lucene"}, "its format is not 'aslfast-bm25'"),
        ({"version": 1}, "version 1, this aslfast reads 2: build the index again"),
        ({"version": 3}, "version 3, this aslfast reads 2: build the index again"),
        ({"version": None}, "version None"),
        ({"k1": 0.8}, "its checksum is wrong; the index is damaged"),
        ({"segments": []}, "its checksum is wrong"),
    ],
)
def test_a_wrong_manifest_is_reported(saved: Path, change: dict[str, object], problem: str) -> None:
    fields = json.loads((saved / "meta.json").read_text())
    (saved / "meta.json").write_text(json.dumps(fields | change, indent=2) + "\n")
    assert "meta.json: " in error_of(saved) and problem in error_of(saved)


def test_not_an_index(tmp_path: Path) -> None:
    assert "is not an index" in error_of(tmp_path)
    assert "is not an index" in error_of(tmp_path / "nothing")
    (tmp_path / "meta.json").write_text("{")
    assert "meta.json: not JSON" in error_of(tmp_path)
    (tmp_path / "meta.json").write_text("[" * 100_000)
    assert "meta.json: not JSON" in error_of(tmp_path)
    (tmp_path / "meta.json").write_text("[]")
    assert "its format is not" in error_of(tmp_path)
