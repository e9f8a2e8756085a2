"""Adding, deleting and merging in any order give the index that a build of the remaining passages gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aslfast.data.corpus import Passage
from aslfast.errors import UserError
from aslfast.index import update
from aslfast.index.bm25 import BM25Index
from aslfast.index.manifest import read_manifest
from aslfast.index.update import tail_to_merge
from tests.support.index.plain_bm25 import PlainBM25, hits

WORDS = ["cat", "dog", "bird", "the", "東京"]
IDS = [f"id{i}" for i in range(12)]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
QUERIES = ["cat", "dog bird dog", "the 東京 cat bird", "none"]


class Life(RuleBasedStateMachine):
    """Random changes; `live` must be in the index, in this order. A fourth segment causes a merge, not a ninth."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = TemporaryDirectory()
        self.folder = Path(self.temporary.name) / "x"
        self.live = [Passage("id0", "cat dog"), Passage("id1", "bird")]
        self.index = BM25Index.build(self.live, self.folder)
        self.most, update.MAX_SEGMENTS = update.MAX_SEGMENTS, 3

    def teardown(self) -> None:
        update.MAX_SEGMENTS = self.most
        self.temporary.cleanup()

    def ids(self) -> list[str]:
        return [passage.id for passage in self.live]

    @rule(ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=4, unique=True), text=st.lists(texts, min_size=4))
    def add(self, ids: list[str], text: list[str]) -> None:
        new = [Passage(id_, text[i]) for i, id_ in enumerate(ids)]
        known = [id_ for id_ in ids if id_ in self.ids()]
        if known:
            with pytest.raises(UserError, match=f"id '{known[0]}' is already in "):
                self.index.add(new)
        else:
            assert self.index.add(new) == len(new)
            self.live += new

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        assume(self.live)
        gone = data.draw(st.lists(st.sampled_from(self.ids()), min_size=1, max_size=4))
        assert self.index.delete(gone) == len(set(gone))
        self.live = [passage for passage in self.live if passage.id not in gone]

    @rule()
    def delete_what_is_not_there(self) -> None:
        with pytest.raises(UserError, match="no passage has the id 'nobody'"):
            self.index.delete([*self.ids()[:1], "nobody"])

    @rule()
    def merge(self) -> None:
        self.index.merge()
        assert sorted(path.name for path in self.folder.iterdir() if path.is_dir()) == [
            segment.folder for segment in read_manifest(self.folder).segments
        ]
        if self.live:
            fresh = self.folder.with_name("fresh")
            BM25Index.build(self.live, fresh)
            (merged,), (built,) = read_manifest(self.folder).segments, read_manifest(fresh).segments
            assert (merged.counts, merged.checks) == (built.counts, built.checks)  # the same bytes in all files
            shutil.rmtree(fresh)

    @rule()
    def reopen(self) -> None:
        self.index = BM25Index.open(self.folder)

    @invariant()
    def finds_what_a_fresh_index_finds(self) -> None:
        assert len(self.index) == len(self.live)
        assert self.index.passages(self.ids()) == self.live
        plain = PlainBM25(self.live)
        for query in QUERIES:
            for scores in ("exact", "lucene"):
                assert hits(self.index, query, 5, scores=scores) == plain.search(query, 5, scores)
        half = self.ids()[::2]
        expected = [hit for hit in plain.search(QUERIES[2], 20) if hit[0] in half]
        assert hits(self.index, QUERIES[2], 20, allow=half) == expected
        statistics = self.index.statistics()
        assert (statistics.passages, statistics.tokens) == (len(self.live), sum(plain.lengths))
        assert statistics.segments <= update.MAX_SEGMENTS

    @invariant()
    def leaves_no_file_behind(self) -> None:
        named = {path.partition("/")[0] for path in read_manifest(self.folder).sizes()}
        assert {path.name for path in self.folder.iterdir()} == named | {"meta.json", "writer.lock"}


Life.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestLife = Life.TestCase


@pytest.fixture
def index(tmp_path: Path) -> BM25Index:
    return BM25Index.build([Passage("a", "cat"), Passage("b", "dog"), Passage("c", "cat dog")], tmp_path / "x")


def test_numbers_are_positions_until_a_merge(index: BM25Index) -> None:
    index.delete(["a"])
    index.add([Passage("d", "cat")])
    assert index.search(["cat"]).docs[0, :3].tolist() == [3, 2, -1]
    index.merge()
    assert index.search(["cat"]).docs[0, :3].tolist() == [2, 1, -1]


def test_a_deleted_id_may_come_again(index: BM25Index) -> None:
    index.delete(["a"])
    index.add([Passage("a", "bird")])
    assert index.search(["cat", "bird"]).ids == [["c"], ["a"]]
    assert index.passages(["a"]) == [Passage("a", "bird")]


def test_an_index_may_become_empty(index: BM25Index) -> None:
    index.delete(["a", "b", "c"])
    for _ in range(2):
        assert len(index) == 0 and index.search(["cat"]).ids == [[]]
        index.merge()
    assert index.statistics().segments == 0
    index.verify()
    index.add([Passage("a", "cat")])
    assert BM25Index.open(index.path).search(["cat"]).ids == [["a"]]


def test_nothing_to_do_is_no_change(index: BM25Index) -> None:
    assert (index.add([]), index.delete([]), index.merge()) == (0, 0, None)
    assert index.generation == 1
    assert sorted(path.name for path in index.path.iterdir()) == ["meta.json", "segment-1", "writer.lock"]


def test_added_files_keep_their_order_and_name_their_places(index: BM25Index, tmp_path: Path) -> None:
    file = tmp_path / "more.jsonl"
    file.write_text('{"id": 1, "contents": "cat"}\n\n{"id": "b", "contents": "cat"}\n')
    with pytest.raises(UserError, match=r"more.jsonl:3: id 'b' is already in .*x; delete it first"):
        index.add(file)
    index.delete(["b"])
    done: list[int] = []
    assert index.add([file], progress=done.append) == 2 and done == [2]
    assert index.search(["cat"]).ids == [["a", "1", "b", "c"]]
    with pytest.raises(UserError, match="passage 2: id 'n' is also that of passage 1"):
        index.add([Passage("n", ""), Passage("n", "")])
    with pytest.raises(UserError, match="lone surrogate"):
        index.add([Passage("\ud800", "")])


def test_an_open_index_keeps_its_generation(index: BM25Index) -> None:
    other = BM25Index.open(index.path)
    other.delete(["a"])
    other.merge()  # the files that `index` has mapped are gone
    assert index.search(["cat"]).ids == [["a", "c"]] and index.passages(["a"]) == [Passage("a", "cat")]
    index.verify()
    index.add([Passage("d", "cat")])  # starts from the newest
    assert index.search(["cat"]).ids == [["d", "c"]]


def test_small_additions_are_merged_as_they_come(tmp_path: Path) -> None:
    index = BM25Index.build([Passage(f"first{i}", "cat") for i in range(100)], tmp_path / "x")
    written = 0
    for i in range(40):
        index.add([Passage(f"id{i}", "cat dog")])
        manifest = read_manifest(index.path)
        written += sum(part.live for part in manifest.segments if part.folder == f"segment-{manifest.generation}")
        assert len(manifest.segments) <= 8
    assert manifest.segments[0].folder == "segment-1"  # a hundred passages are not written again for forty
    assert written < 40 * 6  # log2(40) = 5.3
    assert index.search(["dog"], 50).ids == [[f"id{i}" for i in range(40)]]


def test_the_tail_that_is_merged() -> None:
    assert tail_to_merge([1, 1]) == 0
    assert tail_to_merge([100, 8, 4, 2, 1, 1]) == 1  # 1 + 1, then 2, 4 and 8 weigh no more than what follows
    assert tail_to_merge([100, 8, 1, 1]) == 2
    assert tail_to_merge([1, 1, 1, 50]) == 0
    assert tail_to_merge([100, 30, 0, 0]) == 2


def test_other_files_in_the_folder_are_kept(index: BM25Index) -> None:
    (index.path / "notes.txt").write_text("mine")
    (index.path / "segment-99").mkdir()  # left by a writer that was killed
    (index.path / "segment-1.deleted-7.bin").write_text("")
    index.delete(["a"])
    assert sorted(path.name for path in index.path.iterdir()) == [
        "meta.json", "notes.txt", "segment-1", "segment-1.deleted-2.bin", "writer.lock",
    ]  # fmt: skip
