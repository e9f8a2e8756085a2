"""Write and rename: the target is the old one or the new one, after an error, on a full disk and after a kill."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from aslfast.files.atomic import atomic_file, atomic_folder, fsync_path, partial_of, write_text
from tests.support.faults.forks import killed_at
from tests.support.faults.small_disk import small_disk


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the names of the files and folders that are synced, and "rename", in order."""
    events: list[str] = []
    fsync, listening = os.fsync, True

    def record(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def hook(event: str, _: object) -> None:  # a hook cannot be removed
        if listening and event == "os.rename":
            events.append("rename")

    monkeypatch.setattr(os, "fsync", record)
    sys.addaudithook(hook)
    yield events
    listening = False


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with atomic_file(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old" and partial == partial_of(file) == tmp_path / ".a.txt.partial"
    assert file.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_after_an_error_the_old_file_stays_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for before in ([], ["a.txt"]):
        with pytest.raises(KeyError), atomic_file(file, sync=True) as partial:
            partial.write_text("half")
            raise KeyError
        assert names(tmp_path) == before
        file.write_text("old")
    assert file.read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.txt"):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_text_is_whole_on_a_full_disk(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "å" * 50)
    assert file.read_text(encoding="utf-8") == "å" * 50
    for limit in (0, 1, 99):
        with small_disk(limit), pytest.raises(OSError, match="File too large"):
            write_text(file, "x" * 100)
    assert file.read_text(encoding="utf-8") == "å" * 50 and names(tmp_path) == ["a.txt"]


def test_a_file_and_then_its_names_are_synced(tmp_path: Path, synced: list[str]) -> None:
    """Contents before the name; other names in the folder before the new file refers to them; the new name last."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with atomic_file(folder / "a", folder / "a.new", sync=True) as partial:
        partial.write_text("new")
    assert synced == ["a.new", "folder", "rename", "folder"]
    synced.clear()
    with atomic_file(folder / "a") as partial:
        partial.write_text("newer")
    assert synced == ["rename"]


def test_a_kill_at_any_call_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    seen = []
    for n in count(1):
        file = tmp_path / str(n) / "a.txt"
        file.parent.mkdir()
        file.write_text("old")

        def write(file: Path = file) -> None:
            with atomic_file(file, sync=True) as partial:
                partial.write_text("new")

        killed = killed_at(n, write)
        seen.append(file.read_text())
        write()  # what the killed writer left is no obstacle
        assert file.read_text() == "new" and names(file.parent) == ["a.txt"]
        if not killed:
            break
    assert seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"}


def fill(folder: Path, text: str = "new") -> None:
    (folder / "in").mkdir()
    for name in ("one", "in/two"):
        (folder / name).write_text(text)


def test_a_folder_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    target = tmp_path / "deeper" / "a"
    with atomic_folder(target) as partial:
        fill(partial)
        assert not target.exists() and partial == partial_of(target)
    assert names(target) == ["in", "one"] and names(target.parent) == ["a"]


def test_an_empty_folder_is_replaced_and_a_filled_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with atomic_folder(tmp_path / "a") as partial:
        fill(partial, "old")
    with pytest.raises(OSError, match="Directory not empty"), atomic_folder(tmp_path / "a") as partial:
        fill(partial)
    assert (tmp_path / "a" / "one").read_text() == "old" and names(tmp_path) == ["a"]


def test_after_an_error_no_part_of_a_folder_is_left(tmp_path: Path) -> None:
    for limit, error in ((1 << 20, KeyError), (2, OSError)):
        with small_disk(limit), pytest.raises(error), atomic_folder(tmp_path / "a", sync=True) as partial:
            fill(partial)
            raise KeyError
        assert names(tmp_path) == []


def test_a_partial_that_the_caller_names_is_not_taken_from_another_writer(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a", tmp_path / "mine") as partial:
        fill(partial)
        with pytest.raises(FileExistsError), atomic_folder(tmp_path / "a", tmp_path / "mine"):
            pass
        assert names(partial) == ["in", "one"]
    assert names(tmp_path) == ["a"]


def test_the_name_of_a_folder_is_synced(tmp_path: Path, synced: list[str]) -> None:
    with atomic_folder(tmp_path / "a", sync=True) as partial:
        fill(partial)
    assert synced == ["rename", tmp_path.name]


def test_a_kill_at_any_call_leaves_a_whole_folder_or_none(tmp_path: Path) -> None:
    seen = []
    for n in count(1):
        target = tmp_path / str(n) / "a"
        target.parent.mkdir()

        def write(target: Path = target) -> None:
            with atomic_folder(target, sync=True) as partial:
                fill(partial)

        killed = killed_at(n, write)
        seen.append(target.exists())
        if not seen[-1]:
            write()  # what the killed writer left is no obstacle
        assert [(target / name).read_text() for name in ("one", "in/two")] == ["new", "new"]
        assert names(target.parent) == ["a"]
        if not killed:
            break
    assert seen == sorted(seen) and set(seen) == {False, True}


def test_syncing_what_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fsync_path(tmp_path / "a")
