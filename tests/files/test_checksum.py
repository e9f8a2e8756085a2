"""Stored files: what is recorded of them, what is synced, and which damage is found."""

import os
from pathlib import Path

from aslfast.files.checksum import damage, store


def test_files_are_checked_by_size_and_content(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"1" * 3_000_000)
    (tmp_path / "two").write_bytes(b"")
    stored = store(tmp_path, [tmp_path / "a", tmp_path / "two"])
    assert {name: kept.bytes for name, kept in stored.items()} == {"a/one": 3_000_000, "two": 0}
    assert all(damage(tmp_path / name, kept) is None for name, kept in stored.items())
    (tmp_path / "a" / "one").write_bytes(b"1" * 2_999_999 + b"2")
    assert damage(tmp_path / "a" / "one", stored["a/one"]) == "its checksum is wrong"
    assert damage(tmp_path / "a" / "one", stored["a/one"], whole=False) is None
    (tmp_path / "a" / "one").write_bytes(b"1")
    assert damage(tmp_path / "a" / "one", stored["a/one"], whole=False) == "1 bytes, expected 3000000"
    (tmp_path / "two").unlink()
    assert damage(tmp_path / "two", stored["two"]) == "No such file or directory"


def test_a_changed_bit_anywhere_is_found(tmp_path):
    file = tmp_path / "one"
    whole = bytes(range(256)) * 2
    file.write_bytes(whole)
    stored = store(tmp_path, [file])["one"]
    for at in range(0, len(whole), 37):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert damage(file, stored) == "its checksum is wrong"


def test_files_and_all_folders_above_them_are_synced(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def record(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path).as_posix())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("a/b/one", "a/b/two", "other/three"):
        (tmp_path / name).write_text(name)
    assert list(store(tmp_path, [tmp_path / "a" / "b"])) == ["a/b/one", "a/b/two"]
    assert synced[:2] == ["a/b/one", "a/b/two"] and sorted(synced[2:]) == [".", "a", "a/b"]
