"""`aslfast index`: what its commands print, for people and for programs, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aslfast.cli.main import app
from aslfast.data.corpus import Passage
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["index", *(str(arg) for arg in args)])


def json_of(*args: object) -> dict[str, Any]:
    result = call(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*args: object) -> str:
    result = call(*args)
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return BM25Index.build(
        [Passage("a", '"Cat"\ncat dog'), Passage("b", "dog dog"), Passage("c", "")], tmp_path / "x"
    ).path


@pytest.fixture
def more(tmp_path: Path) -> Path:
    (tmp_path / "more.jsonl").write_text('{"id": "d", "contents": "bird"}\n{"id": 5, "contents": "bird cat"}\n')
    return tmp_path / "more.jsonl"


def test_build_takes_every_setting(more: Path, tmp_path: Path) -> None:
    settings = ["--analyzer", "whitespace", "--k1", "1.2", "--b", "0.75", "--memory-mb", "64", "--threads", "1", "-q"]
    built = json_of("build", more, "--out", tmp_path / "y", *settings)
    assert (built["analyzer"], built["k1"], built["b"], built["passages"]) == ("whitespace", 1.2, 0.75, 2)
    assert call("build", more, "--out", tmp_path / "z", "-q").stdout.startswith(
        f"{tmp_path / 'z'}: 2 passages, 2 terms, "
    )
    assert "unknown analyzer 'german'" in refused("build", more, "--out", tmp_path / "w", "--analyzer", "german", "-q")


def test_a_life(folder: Path, more: Path, tmp_path: Path) -> None:
    assert json_of("add", folder, more, "-q") == {
        "index": str(folder), "added": 2, "passages": 5, "segments": 2, "generation": 2,
    }  # fmt: skip
    assert "id 'd' is already in" in refused("add", folder, more, "-q")
    (tmp_path / "ids.txt").write_text("c\n5\n")
    assert json_of("delete", folder, "b", "--ids-from", tmp_path / "ids.txt")["deleted"] == 3
    info = json_of("info", folder)
    assert (info["passages"], info["deleted"], info["segments"], info["generation"]) == (2, 3, 2, 3)
    assert sum(info["bytes_by_kind"].values()) == info["bytes"] and info["bytes_per_passage"] == info["bytes"] / 2
    assert json_of("merge", folder) | {"index": ""} == {
        "index": "", "merged": 2, "passages": 2, "segments": 1, "generation": 4,
    }  # fmt: skip
    assert [hit["id"] for hit in json_of("search", folder, "cat bird")["hits"]] == ["a", "d"]
    assert json_of("verify", folder)["passages"] == 2


def test_what_people_read(folder: Path, more: Path) -> None:
    assert call("add", folder, more, "-q").stdout == f"{folder}: 2 passages added; now 5 passages, segments: 2\n"
    assert call("delete", folder, "a").stdout == f"{folder}: 1 passages deleted; now 4 passages, segments: 2\n"
    lines = call("info", folder).stdout.splitlines()
    assert lines[0] == f"{folder}: 4 passages in 2 segments, 1 deleted, generation 3"
    assert lines[1:3] == ["analyzer english, k1 0.9, b 0.4", "4 terms, 6 postings, 5 tokens"]
    assert {line.split()[0] for line in lines[4:]} >= {"terms", "postings", "texts", "checks", "deleted"}
    assert call("verify", folder).stdout.startswith(f"{folder}: intact; 4 passages, ")
    assert call("merge", folder).stdout == f"{folder}: 2 segments merged; now 4 passages, segments: 1\n"


def test_search_scores_as_asked(folder: Path) -> None:
    assert json_of("search", folder, "dog", "--scores", "lucene")["hits"] == json_of("search", folder, "dog")["hits"]
    assert "unknown scores 'bm11'; use exact or lucene" in refused("search", folder, "dog", "--scores", "bm11")


def test_k_has_an_upper_bound_that_is_said(folder: Path) -> None:
    assert "1000000" in refused("search", folder, "dog", "-k", 99999999999)
    assert len(json_of("search", folder, "dog", "-k", 1_000_000)["hits"]) == 2
    with pytest.raises(UserError, match="k is 1000001; ask for 1 to 1,000,000 passages"):
        BM25Index.open(folder).search(["dog"], 1_000_001)


def test_refusals(folder: Path, tmp_path: Path) -> None:
    for command in (["info"], ["verify"], ["merge"], ["delete"], ["search"]):
        rest = ["a"] if command[0] in ("delete", "search") else []
        assert "is not an index: build one there" in refused(*command, tmp_path, *rest)
    assert not (tmp_path / "writer.lock").exists()
    assert "no id was given" in refused("delete", folder)
    assert "no passage has the id 'x'" in refused("delete", folder, "a", "x")
    assert "none.txt: No such file" in refused("delete", folder, "--ids-from", tmp_path / "none.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    assert "bad.txt: not valid UTF-8" in refused("delete", folder, "--ids-from", tmp_path / "bad.txt")
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbfa\r\nx\r\n")  # as Windows' editors write it
    assert "no passage has the id 'x'" in refused("delete", folder, "--ids-from", tmp_path / "mark.txt")
    (folder / "segment-1" / "texts.bin").write_bytes(b"")
    assert "texts.bin: 0 bytes, expected" in refused("verify", folder)
