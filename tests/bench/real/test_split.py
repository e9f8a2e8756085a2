"""Train, dev and test by title: none crosses, the least numbers hold, any first rows are a sample."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aslfast.data.topics import read_topics
from aslfast.errors import UserError
from bench.real_run.split import SPLITS, main, split_titles, write_splits

LEAST = {"test": 20, "dev": 10}


@pytest.fixture
def data(tmp_path):
    """40 titles of two passages, with 1 to 5 questions each; one passage's title has an underscore."""
    names = [f"Title_{i}" for i in range(40)]
    passages = {f"p{i}-{n}": f'"{name}"\ntext {n}' for i, name in enumerate(names) for n in range(2)}
    rows = [
        {"id": f"q{i}-{n}", "question": "which?", "answers": ["x"], "gold_passage": f"p{i}-{n % 2}"}
        for i in range(40)
        for n in range(1 + i % 5)
    ]
    pq.write_table(pa.table({"id": list(passages), "contents": list(passages.values())}), tmp_path / "passages.parquet")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "questions.parquet")
    return tmp_path


def titles(file):
    return {row["gold_passage"].partition("-")[0] for row in pq.read_table(file).to_pylist()}


def test_no_title_crosses_and_nothing_is_lost(data):
    counts = write_splits(data / "passages.parquet", data / "questions.parquet", LEAST, data)
    of = {name: titles(data / f"{name}.parquet") for name in SPLITS}
    assert all(not of[a] & of[b] for a in SPLITS for b in SPLITS if a < b)
    assert set.union(*of.values()) == {f"p{i}" for i in range(40)}
    assert sum(counts.values()) == pq.read_metadata(data / "questions.parquet").num_rows == 120
    assert 20 <= counts["test"] < 25 and 10 <= counts["dev"] < 15  # a title has at most 5
    assert {name: pq.read_metadata(data / f"{name}.parquet").num_rows for name in SPLITS} == counts
    topics = read_topics(str(data / "topics.txt"))
    assert sorted(topics) == sorted(f"Title {title[1:]}" for title in of["train"])


def test_the_order_of_the_file_changes_nothing(data):
    write_splits(data / "passages.parquet", data / "questions.parquet", LEAST, data)
    before = {name: pq.read_table(data / f"{name}.parquet").column("id").to_pylist() for name in SPLITS}
    table = pq.read_table(data / "questions.parquet")
    pq.write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))), data / "questions.parquet")
    write_splits(data / "passages.parquet", data / "questions.parquet", LEAST, data)
    assert {name: pq.read_table(data / f"{name}.parquet").column("id").to_pylist() for name in SPLITS} == before
    assert before["train"] != sorted(before["train"])  # by a hash: the first rows are of many titles


def test_titles_are_taken_in_the_order_of_their_hash():
    """SHA-256: c 2e7d2c..., b 3e23e8..., a ca9781...."""
    assert split_titles(["a", "a", "b", "c", "c", "c"], {"test": 2, "dev": 1}) == {
        "c": "test", "b": "dev", "a": "train",
    }  # fmt: skip


def test_the_command_splits_as_a_run_does(data, capsys, monkeypatch):
    monkeypatch.setattr("bench.real_run.split.SIZES", {"full": SimpleNamespace(least=LEAST)})
    monkeypatch.setattr("sys.argv", ["split", str(data), str(data / "new" / "run")])
    main()
    write_splits(data / "passages.parquet", data / "questions.parquet", LEAST, data)
    assert "train " in capsys.readouterr().out
    for name in SPLITS:
        assert (data / "new" / "run" / f"{name}.parquet").read_bytes() == (data / f"{name}.parquet").read_bytes()
    monkeypatch.setattr("sys.argv", ["split", str(data / "none"), str(data / "new")])
    with pytest.raises(SystemExit, match=r"split: .*passages\.parquet|split: .*questions\.parquet"):
        main()


def test_what_cannot_be_split_is_refused(data):
    with pytest.raises(UserError, match="no question is left for train"):
        write_splits(data / "passages.parquet", data / "questions.parquet", {"test": 200, "dev": 10}, data)
    pq.write_table(pq.read_table(data / "passages.parquet").slice(1), data / "passages.parquet")
    with pytest.raises(UserError, match="no passage 'p0-0'"):
        write_splits(data / "passages.parquet", data / "questions.parquet", LEAST, data)
