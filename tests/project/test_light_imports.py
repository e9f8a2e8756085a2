"""Light commands stay light: which modules they must not load, and what importing the configuration costs.

Each command runs in a process of its own, which writes the names of its modules when it ends.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from aslfast.index.bm25 import BM25Index
from tests.support.cli.page_runs import write_page_run
from tests.support.run_files import round_line, write_run

MODELS = {"torch", "transformers", "peft", "sglang", "triton", "tokenizers", "safetensors"}
HEAVY = ("train", "eval", "rollout", "plan", "doctor", "sft", "demos", "export", "model")  # but not their help
FILES = {"pyarrow", "matplotlib", "httpx", "starlette", "uvicorn"}  # for commands that only say something
CONFIG_SECONDS = 0.3  # of a processor
RUN = """
import atexit, json, sys
from pathlib import Path
record = Path(sys.argv.pop(1))
atexit.register(lambda: record.write_text(json.dumps(sorted(sys.modules))))
from aslfast.cli.main import main
main()
"""
TIMED = """
import sys, time
started = time.process_time()
import aslfast.config
print(time.process_time() - started)
print(*sys.modules)
"""


def command(record: Path, *args: str | Path) -> list[str]:
    return [sys.executable, "-c", RUN, str(record), *map(str, args)]


def loaded(record: Path) -> set[str]:
    """The top-level modules that the command's process had at its end."""
    return {name.partition(".")[0] for name in json.loads(record.read_text())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a finished run and an index."""
    folder = tmp_path_factory.mktemp("light")
    write_run(folder / "run", [round_line(0, 0.4, 0.7, (0.4,)), round_line(1, 0.5, 0.7, (0.5,))], [])
    write_page_run(folder / "trained")
    (folder / "c.jsonl").write_text('{"id": "a", "contents": "running dogs"}\n')
    BM25Index.build([folder / "c.jsonl"], folder / "idx", threads=1)
    return folder


@pytest.mark.parametrize(
    ("args", "unwanted"),
    [
        ("--help", MODELS | FILES | {"numpy"}),
        ("--version", MODELS | FILES | {"numpy"}),
        *((f"{name} --help", MODELS | FILES | {"numpy"}) for name in HEAVY),
        ("lab --help", MODELS | FILES | {"numpy"}),
        ("index --help", MODELS | FILES | {"numpy"}),
        ("index serve --help", MODELS | FILES | {"numpy"}),
        ("recipes", MODELS | FILES),
        ("recipes tiny", MODELS | FILES),
        ("train --dry-run", MODELS | {"matplotlib"}),
        ("index build c.jsonl --out new --quiet", MODELS | FILES),
        ("index info idx", MODELS | FILES),
        ("index search idx dog", MODELS | FILES),
        ("report run", MODELS | FILES - {"matplotlib"}),
        ("report run --html", (MODELS - {"tokenizers"}) | FILES - {"pyarrow"}),
        ("watch --help", MODELS | FILES | {"numpy"}),
        ("trajectories trained", MODELS | FILES - {"pyarrow"}),
    ],
)
def test_a_light_command_loads_no_more_than_it_needs(args, unwanted, folder, tmp_path):
    done = subprocess.run(command(tmp_path / "modules", *args.split()), cwd=folder, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    names = loaded(tmp_path / "modules")
    assert "typer" in names and names & unwanted == set()


def test_a_retrieval_server_loads_no_model(folder, tmp_path):
    server = subprocess.Popen(
        command(tmp_path / "modules", "index", "serve", folder / "idx", "--port", "0", "--json"),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = json.loads(server.stdout.readline())["url"]
        found = httpx.post(f"{url}/retrieve", json={"queries": ["dog"], "topk": 1}, trust_env=False)
        assert found.status_code == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
    finally:
        server.kill()
        server.stdout.close()
    names = loaded(tmp_path / "modules")
    assert "uvicorn" in names and names & (MODELS | {"matplotlib"}) == set()


def test_the_configuration_is_light_and_fast():
    """The least of three: the first one may compile."""
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", TIMED], check=True, capture_output=True, text=True, timeout=60)
        spent, names = done.stdout.splitlines()
        seconds.append(float(spent))
    assert {name.partition(".")[0] for name in names.split()} & (MODELS | FILES | {"numpy"}) == set()
    assert min(seconds) <= CONFIG_SECONDS


def test_the_check_sees_what_is_loaded(folder, tmp_path):
    """A command that needs a model loads one: `plan` counts its parameters."""
    args = command(tmp_path / "modules", "plan", "--gpu", "80GB")
    assert subprocess.run(args, capture_output=True, timeout=120).returncode == 0
    assert {"torch", "transformers", "peft"} <= loaded(tmp_path / "modules")
