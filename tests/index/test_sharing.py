"""One index, many threads and processes: readers next to a writer, two writers, forks, and kills at any moment."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from aslfast.data.corpus import Passage
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index
from aslfast.index.manifest import write_lock
from aslfast.index.update import delete_ids
from tests.support.faults.forks import ends_well, in_child, killed_at
from tests.support.faults.small_disk import small_disk
from tests.support.index.plain_bm25 import PlainBM25, hits

FIRST = [Passage(f"id{i}", f"cat w{i % 13} " + "dog " * (i % 5)) for i in range(300)]
QUERIES = ["cat w3 dog", "dog", "w1 w2 w12", "none"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BM25Index.build(FIRST, tmp_path / "x")
    return tmp_path / "x"


def answers(index: BM25Index) -> list[list[str]]:
    return index.search(QUERIES, 20).ids


def run_threads(n: int, work: Callable[[int], None]) -> None:
    """Run work(0), ..., work(n - 1) at once; raise what one of them raised."""
    problems: list[BaseException] = []

    def guarded(i: int) -> None:
        try:
            work(i)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def test_eight_threads_share_an_index(folder: Path) -> None:
    index = BM25Index.open(folder)
    expected = [hits(index, query, 20) for query in QUERIES]
    assert expected == [PlainBM25(FIRST).search(query, 20) for query in QUERIES]

    def search(_: int) -> None:
        for _ in range(50):
            assert [hits(index, query, 20) for query in QUERIES] == expected

    run_threads(8, search)


def test_threads_may_search_and_change_one_object(folder: Path) -> None:
    index = BM25Index.open(folder)

    def work(i: int) -> None:
        if i < 3:
            for n in range(5):
                index.add([Passage(f"new{i}-{n}", "cat dog")])
                index.delete([f"new{i}-{n}", f"id{i * 10 + n}"])
            return
        for _ in range(50):
            found = index.search(QUERIES, 20)
            assert [len(row) for row in found.ids] == [20, 20, 20, 0]

    run_threads(6, work)
    gone = {f"id{i * 10 + n}" for i in range(3) for n in range(5)}
    left = [passage for passage in FIRST if passage.id not in gone]
    assert [hits(index, query, 20) for query in QUERIES] == [PlainBM25(left).search(query, 20) for query in QUERIES]


def test_four_processes_share_an_index(folder: Path) -> None:
    script = (
        "import sys; from aslfast.index import BM25Index\n"
        "index = BM25Index.open(sys.argv[1])\n"
        "print([index.search(sys.argv[2:], 20).ids for _ in range(20)])"
    )
    command = [sys.executable, "-c", script, str(folder), *QUERIES]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    expected = f"{[answers(BM25Index.open(folder))] * 20}\n"
    assert [process.communicate()[0] for process in processes] == [expected] * 4


def test_an_open_index_works_after_a_fork(folder: Path) -> None:
    index = BM25Index.open(folder)
    expected = answers(index)

    def child() -> None:
        assert answers(index) == expected
        assert index.passages(["id7"]) == [FIRST[7]]
        index.delete(["id7"])

    assert ends_well(in_child(child))
    assert answers(index) == expected
    assert len(BM25Index.open(folder)) == 299


def test_one_writer_at_a_time(folder: Path) -> None:
    index = BM25Index.open(folder)
    reading, writing = os.pipe()

    def child() -> None:
        with write_lock(folder):
            os.write(writing, b"locked")
            time.sleep(60)

    holder = in_child(child)
    assert os.read(reading, 6) == b"locked"
    for change in (lambda: index.add([Passage("new", "")]), lambda: index.delete(["id0"]), index.merge):
        with pytest.raises(UserError, match="x: another writer is changing this index; try again when it is done"):
            change()
    assert BM25Index.open(folder).search(["cat"]).ids == index.search(["cat"]).ids  # readers take no lock
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    assert index.delete(["id0"]) == 1  # the lock went with its holder


def test_a_child_forked_in_the_middle_of_a_change_holds_no_lock(folder: Path) -> None:
    with write_lock(folder):
        child = in_child(lambda: time.sleep(60))
    assert BM25Index.open(folder).delete(["id0"]) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_fork_within_a_change_can_still_use_the_index(folder: Path) -> None:
    index = BM25Index.open(folder)
    ended: list[bool] = []

    def child() -> None:
        assert len(answers(index)[0]) == 20
        with pytest.raises(UserError, match="another writer is changing this index"):  # and no waiting for ever
            index.delete(["id0"])

    def passages() -> Iterator[Passage]:
        yield Passage("new", "cat")
        ended.append(ends_well(in_child(child)))  # while the change waits for more passages

    assert index.add(passages()) == 1
    assert ended == [True]


def test_readers_open_while_a_writer_works(folder: Path) -> None:
    def child() -> None:
        end = time.monotonic() + 3
        opened = set()
        while time.monotonic() < end:
            index = BM25Index.open(folder)
            opened.add(index.generation)
            assert len(index) in (299, 300) and len(index.search(["dog"], 20).ids[0]) == 20
        assert len(opened) > 3

    readers = [in_child(child) for _ in range(2)]
    index = BM25Index.open(folder)
    end = time.monotonic() + 3.2
    while time.monotonic() < end:
        index.delete(["id0"])
        index.add([FIRST[0]])
        index.merge()
    assert [ends_well(reader) for reader in readers] == [True, True]


def test_a_full_disk_leaves_the_index_as_it_was(folder: Path) -> None:
    index = BM25Index.open(folder)
    before = {path.name for path in folder.iterdir()}
    for limit in (0, 64, 300, 5000):
        with small_disk(limit), pytest.raises(UserError, match=r"x: cannot be written .*free the space"):
            index.add([Passage(f"new{i}", f"word{i}") for i in range(2000)])
        assert {path.name for path in folder.iterdir()} == before
        assert BM25Index.open(folder).generation == 1


def test_a_merge_that_fails_leaves_what_was_added(folder: Path) -> None:
    index = BM25Index.open(folder)
    for part in range(7):
        index.add([Passage(f"part{part}-{i}", "cat") for i in range(3000 - 400 * part)])
    assert index.statistics().segments == 8
    message = r"x: the passages are added, but merging failed .*then merge it"
    with small_disk(9000), pytest.raises(UserError, match=message):
        index.add([Passage("new", "bird")])
    assert BM25Index.open(folder).search(["bird"]).ids == [["new"]]
    index.merge()
    assert index.statistics().segments == 1 and len(index) == 300 + 7 * 3000 - 400 * 21 + 1


NEW = [Passage(f"new{i}", "cat w1 dog") for i in range(40)]


def life(index: BM25Index) -> None:
    """Make changes that write every kind of file."""
    index.add(NEW[:20])
    index.delete(["id0", "new3"])
    index.add(NEW[20:])
    index.delete(["id1"])
    index.merge()


def states() -> list[list[str]]:
    """Return the ids after each of them."""
    ids = [passage.id for passage in FIRST]
    one = ids + [passage.id for passage in NEW[:20]]
    two = [id_ for id_ in one if id_ not in ("id0", "new3")]
    three = two + [passage.id for passage in NEW[20:]]
    return [ids, one, two, three, [id_ for id_ in three if id_ != "id1"]]


def check_after_kill(folder: Path) -> int:
    """Assert that the index is sound and in one of its states; return which."""
    index = BM25Index.open(folder)
    index.verify()
    passages = {passage.id: passage for passage in FIRST + NEW}
    state = next(i for i, ids in enumerate(states()) if len(ids) == len(index))
    live = [passages[id_] for id_ in states()[state]]
    assert index.passages(states()[state]) == live
    assert hits(index, "cat w1 dog", 50) == PlainBM25(live).search("cat w1 dog", 50)
    index.add([Passage("after", "bird")])  # the lock is free, and what was left behind is no hindrance
    files = {path.name.partition(".")[0] for path in folder.iterdir()}
    assert {name for name in files if name.startswith("segment-")} == {
        path.partition("/")[0].partition(".")[0] for path in index._snapshot.manifest.sizes()
    }
    return state


def test_a_kill_at_any_step_leaves_the_old_index_or_the_new_one(tmp_path: Path) -> None:
    BM25Index.build(FIRST, tmp_path / "first")
    seen: list[int] = []
    for n in count(1, 2):
        folder = shutil.copytree(tmp_path / "first", tmp_path / str(n))
        killed = killed_at(n, lambda folder=folder: life(BM25Index.open(folder)))
        seen.append(check_after_kill(folder))
        if not killed:
            break
    assert seen == sorted(seen) and set(seen) == {0, 1, 2, 3, 4}


def test_a_kill_at_any_time_leaves_the_old_index_or_the_new_one(tmp_path: Path) -> None:
    """In the middle of the C++ core too."""
    rng = random.Random(0)
    BM25Index.build(FIRST, tmp_path / "first")
    whole = shutil.copytree(tmp_path / "first", tmp_path / "whole")
    started = time.monotonic()
    assert ends_well(in_child(lambda: life(BM25Index.open(whole))))
    whole_s = time.monotonic() - started
    for n in range(20):
        folder = shutil.copytree(tmp_path / "first", tmp_path / str(n))
        child = in_child(lambda folder=folder: life(BM25Index.open(folder)))
        time.sleep(rng.random() * whole_s)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check_after_kill(folder)


def test_a_killed_build_leaves_nothing_that_the_next_one_keeps(tmp_path: Path) -> None:
    n = 1
    while killed_at(n, lambda: BM25Index.build(FIRST, tmp_path / "x") and None):
        if (tmp_path / "x").exists():  # killed after the rename
            assert len(BM25Index.open(tmp_path / "x")) == 300
            break
        n += 3
    assert n > 6
    BM25Index.build(FIRST, tmp_path / "y" / "x")
    if not (tmp_path / "x").exists():
        BM25Index.build(FIRST, tmp_path / "x")
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]


def test_a_deletion_in_another_process_is_seen_by_the_next_change(folder: Path) -> None:
    index = BM25Index.open(folder)
    assert ends_well(in_child(lambda: delete_ids(folder, ["id5"]) and None))
    with pytest.raises(UserError, match="no passage has the id 'id5'"):
        index.delete(["id5"])
    assert len(index) == 300  # until it changes something itself
    index.delete(["id6"])
    assert len(index) == 298
