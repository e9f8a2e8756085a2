"""`aslfast watch`: a server on this machine alone that follows a run and never writes to it."""

from __future__ import annotations

import gzip
import json
import os
import signal
import time

import httpx
import pytest
from typer.testing import CliRunner

from aslfast.cli.main import app
from aslfast.data.trajectories import write_trajectories
from aslfast.files.jsonl import append_line
from tests.support.cli.page_runs import policy_records, step_line, watching, write_page_run


@pytest.fixture
def run(tmp_path):
    return write_page_run(tmp_path / "run")


@pytest.fixture
def watched(run):
    with watching(run) as (url, server), httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        yield client, server


def meta(client):
    return json.loads(gzip.decompress(client.get("/data/0").content))


def everything_in(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def test_it_follows_the_run_and_writes_nothing(run, watched):
    client, _ = watched
    page = client.get("/")
    assert "connect-src 'self'" in page.text and page.headers["Cache-Control"] == "no-store"
    assert meta(client)["total"] == 18
    version = client.get("/data/version").text
    assert client.get("/data/version").text == version
    write_trajectories(run / "steps" / "round-002-policy-00001.parquet", policy_records(1, 2))
    append_line(run / "metrics.jsonl", step_line("policy", 1, 2))
    before = everything_in(run)
    assert client.get("/data/version").text != version
    grown = meta(client)
    assert grown["total"] == 26 and len(grown["steps"]) == 4
    last = f"/data/{len(grown['starts'])}?version={client.get('/data/0').headers['X-Run-Version']}"
    assert len(json.loads(gzip.decompress(client.get(last).content))) == 8 and everything_in(run) == before
    assert client.get(f"/data/1?version={version}").status_code == 409  # of a table that is old by now


def test_what_it_refuses(watched):
    client, server = watched
    assert client.get("/", headers={"Host": "evil.example:80"}).status_code == 403
    assert client.get("/?x=1", headers={"Host": "LOCALHOST"}).status_code == 200
    for path in ("/data/-1", "/data/../../config.toml", "/config.toml", "/data/" + "9" * 400, "/data/"):
        assert client.get(path).status_code == 404, path
    assert client.get("/data/99").status_code == 409
    assert client.post("/").status_code == 501
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0


def test_a_run_that_has_no_round_yet_is_waited_for(run, watched):
    client, _ = watched
    os.rename(run / "rounds.jsonl", run / "later")
    (run / "metrics.jsonl").touch()
    answer = client.get("/data/0")
    assert answer.status_code == 503 and "rounds.jsonl" in answer.text
    (run / "rounds.jsonl").write_text('{"round": 1}\n')
    assert "has a line that no run writes" in client.get("/data/0").text
    os.rename(run / "later", run / "rounds.jsonl")
    deadline = time.monotonic() + 10
    while client.get("/data/0").status_code != 200:
        assert time.monotonic() < deadline


def test_a_folder_that_is_no_run(tmp_path):
    result = CliRunner().invoke(app, ["watch", str(tmp_path)])
    assert result.exit_code == 2 and "no run there" in result.stderr
