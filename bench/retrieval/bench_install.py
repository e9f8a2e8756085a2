"""From `pip install` to a first search in a clean environment: seconds for aslfast's wheel and its peers, in turns.

    python -m bench.retrieval.bench_install --wheels dist --out bench/results/install.json

Each round makes a new environment for each engine, installs it without pip's cache (so the network counts), and starts
a new process that imports it, indexes the same passages and searches once. What fails is recorded with its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.shared.results import write_result
from bench.shared.stamp import four_digits, quantiles, stamp

PASSAGES = 10_000
OURS = """
from aslfast.index import BM25Index
index = BM25Index.build(["passages.jsonl"], "out.idx")
print(index.search([QUERY], k=3).ids[0][0])
"""
BM25S = """
import json, bm25s
rows = [json.loads(line) for line in open("passages.jsonl")]
index = bm25s.BM25()
index.index(bm25s.tokenize([row["contents"] for row in rows], stopwords="en", show_progress=False), show_progress=False)
found, _ = index.retrieve(bm25s.tokenize(QUERY, show_progress=False), k=3, show_progress=False)
print(rows[found[0][0]]["id"])
"""
TANTIVY = """
import json, tantivy
schema = tantivy.SchemaBuilder().add_text_field("id", stored=True).add_text_field("contents").build()
index = tantivy.Index(schema)
writer = index.writer()
for line in open("passages.jsonl"):
    row = json.loads(line)
    writer.add_document(tantivy.Document(id=row["id"], contents=row["contents"]))
writer.commit()
index.reload()
searcher = index.searcher()
hits = searcher.search(index.parse_query(QUERY, ["contents"]), 3).hits
print(searcher.doc(hits[0][1])["id"][0])
"""
PYSERINI = """
import os, subprocess, sys
os.makedirs("corpus", exist_ok=True)
os.replace("passages.jsonl", "corpus/passages.jsonl")
subprocess.run([sys.executable, "-m", "pyserini.index.lucene", "--collection", "JsonCollection", "--input", "corpus",
    "--index", "lucene", "--generator", "DefaultLuceneDocumentGenerator", "--threads", "2"], check=True)
from pyserini.search.lucene import LuceneSearcher
print(LuceneSearcher("lucene").search(QUERY, k=3)[0].docid)
"""


@dataclass(frozen=True, slots=True)
class Engine:
    requirement: str
    script: str
    rounds: int | None = None  # fewer than the others


ENGINES = {
    "ours": Engine("aslfast", OURS),
    "bm25s": Engine("bm25s", BM25S),
    "tantivy": Engine("tantivy", TANTIVY),
    "pyserini": Engine("pyserini", PYSERINI, rounds=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True, help="folder with aslfast's wheel")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout-s", type=float, default=900)
    parser.add_argument("--allow-dirty", action="store_true")
    asked = parser.parse_args()
    result = stamp("install", asked.allow_dirty)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in asked.engines}
    for number in range(asked.rounds):
        for name in asked.engines:
            if number >= asked.rounds - (ENGINES[name].rounds or asked.rounds):
                runs[name].append(one_run(ENGINES[name], asked.wheels.resolve(), asked.timeout_s))
                print(name, runs[name][-1], flush=True)
        result |= {"passages": PASSAGES, "rounds": number + 1}
        result["engines"] = {name: summary(done) for name, done in runs.items()}
        write_result(asked.out, result)


def one_run(engine: Engine, wheels: Path, timeout_s: float) -> dict[str, Any]:
    """Return the seconds of one environment, installation and first search; or the last line of what failed."""
    folder = Path(tempfile.mkdtemp())
    found: dict[str, Any] = {}
    try:
        query = write_passages(folder / "passages.jsonl")
        subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
        python = folder / "env" / "bin" / "python"
        links = ["--find-links", str(wheels)] if engine.requirement == "aslfast" else []
        install = ["-m", "pip", "--disable-pip-version-check", "install", "--no-cache-dir", "--quiet", *links]
        found["install_s"] = timed([python, *install, engine.requirement], folder, timeout_s)
        found["installed_mb"] = round(size(folder / "env") / 1e6)
        found["version"] = version(python, engine.requirement)
        found["search_s"] = timed([python, "-c", engine.script.replace("QUERY", repr(query))], folder, timeout_s)
        found["total_s"] = four_digits(found["install_s"] + found["search_s"])
    except subprocess.TimeoutExpired:
        found["failed"] = f"more than {timeout_s:.0f} s"
    except subprocess.CalledProcessError as error:
        found["failed"] = (error.stderr.strip().splitlines() or ["no output"])[-1][:200]
    finally:
        shutil.rmtree(folder)
    return found


def write_passages(file: Path) -> str:
    """Write the passages, the same each time; return a query for the first one."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 9))) for _ in range(20_000)]
    rows = [{"id": f"p{number}", "contents": " ".join(rng.choices(words, k=100))} for number in range(PASSAGES)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return " ".join(rows[0]["contents"].split()[:8])


def timed(command: list[Any], folder: Path, timeout_s: float) -> float:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True, timeout=timeout_s)
    return four_digits(time.perf_counter() - started)


def version(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians with p20 and p80 over the runs that succeeded, and every run."""
    good = [run for run in runs if "failed" not in run]
    figures = {key: quantiles([run[key] for run in good]) for key in ("install_s", "search_s", "total_s") if good}
    return {"n": len(good), **figures, "runs": runs}


if __name__ == "__main__":
    main()
