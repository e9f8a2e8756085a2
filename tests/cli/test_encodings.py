"""Text that a terminal's encoding lacks: escaped, never a traceback; JSON stays JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aslfast.cli.main import app
from aslfast.data.corpus import Passage
from aslfast.index.bm25 import BM25Index

CONTENTS = '"東京 é 😀"\n東京 is the capital.'
ENCODINGS = ["ascii", "latin-1", "shift-jis", "utf-8"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("東京") / "idx"
    return BM25Index.build([Passage("京", CONTENTS)], folder, analyzer="cjk", threads=1).path


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_command_prints_in_any_encoding(encoding: str, index: Path) -> None:
    runner = CliRunner(charset=encoding)
    for command in (["search", str(index), "東京"], ["info", str(index)], ["verify", str(index)]):
        printed = runner.invoke(app, ["index", *command])
        assert printed.exit_code == 0 and printed.stdout, repr(printed.exception)
        as_json = runner.invoke(app, ["index", *command, "--json"])
        found = json.loads(as_json.stdout_bytes.decode(encoding))
        assert found.get("index", str(index)) == str(index)
        if command[0] == "search":
            assert (found["query"], found["hits"][0]["contents"]) == ("東京", CONTENTS)
            assert "capital" in printed.stdout
    refused = runner.invoke(app, ["index", "info", "東京"])
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_a_process_with_an_ascii_terminal(as_json: bool, index: Path) -> None:
    command = [sys.executable, "-m", "aslfast", "index", "search", str(index), "東京", *["--json"] * as_json]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = json.loads(done.stdout)["hits"][0]["contents"] if as_json else done.stdout.decode("ascii")
    assert shown == CONTENTS if as_json else "\\u6771\\u4eac is the capital." in shown


def test_a_query_that_is_no_utf8_is_a_query(index: Path) -> None:
    """Such bytes of a command line reach the program as half surrogate pairs."""
    result = CliRunner().invoke(app, ["index", "search", str(index), "東京 \udcff", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["hits"][0]["id"] == "京"
