"""Try the wheels of every CPython in an environment of its own: build, search and serve an index without a compiler.

    python .ci/try_wheels.py --wheels dist --pythons python3.10 python3.11

pip fetches the dependencies; everything after that runs with the environment's own commands on PATH and nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from wheels import PIP, ROOT, found

PASSAGES = '{"id": "a", "contents": "running dogs"}\n{"id": "b", "contents": "cats"}\n'
COMPILERS = "for name in cc gcc c++ g++ clang cmake; do ! command -v $name || exit 1; done"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--wheels", type=Path, default=ROOT / "dist")
    options.add_argument("--pythons", nargs="+", required=True)
    asked = options.parse_args()
    for python in asked.pythons:
        with tempfile.TemporaryDirectory() as folder:
            print(python, tried(found(python), asked.wheels.resolve(), Path(folder)), flush=True)


def tried(python: str | None, wheels: Path, folder: Path) -> str:
    """Install, build, search and serve; return the version of aslfast. Exit where a step fails."""
    if python is None:
        return "not tried: no such interpreter here"
    commands = folder / "env" / "bin"
    run([python, "-m", "venv", folder / "env"], folder)
    run([commands / "python", *PIP, "install", "--find-links", wheels, "aslfast[serve]"], folder)
    (folder / "c.jsonl").write_text(PASSAGES)
    alone = {"PATH": str(commands), "HOME": str(folder)}
    run(["/bin/sh", "-c", COMPILERS], folder, alone)
    run([commands / "aslfast", "index", "build", "c.jsonl", "--out", "i.idx"], folder, alone)
    check("running dogs" in run([commands / "aslfast", "index", "search", "i.idx", "dog"], folder, alone), "search")
    check("running dogs" in served(commands / "aslfast", folder, alone), "serve")
    return run([commands / "aslfast", "--version"], folder, alone).strip()


def served(aslfast: Path, folder: Path, alone: dict[str, str]) -> str:
    """Return what the index's server answers."""
    command = [aslfast, "index", "serve", "i.idx", "--port", "0", "--json"]
    server = subprocess.Popen(command, cwd=folder, env=alone, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        body = json.dumps({"queries": ["dog"], "topk": 1}).encode()
        request = urllib.request.Request(f"{url}/retrieve", body, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=60).read().decode()
    finally:
        server.kill()
        server.communicate()


def run(command: list[str | Path], folder: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    check(done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def check(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"wheels: {what}")


if __name__ == "__main__":
    main()
