"""Load the retrieval server: many clients on loopback, every answer checked against a direct search.

    python -m bench.retrieval.bench_server --passages passages.parquet --questions questions.parquet \\
        --out runs/load_server.json

Each of `--clients` connections sends its next request as soon as it has an answer: 1 to 64 queries, topk 1, 3 or 10,
with and without scores. Baseline, in the same run: the same kind of requests, one at a time, on the index itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import uvicorn

from aslfast.index.bm25 import BM25Index
from bench.shared.stamp import stamp

TOPKS = (1, 3, 10)
MAX_QUERIES = 64


@dataclass(frozen=True)
class CheckedRequest:
    """A request and the expected answer."""

    body: bytes
    rows: list[list[dict[str, Any]]]  # with scores
    scores: bool

    def is_correct(self, answer: bytes) -> bool:
        want = self.rows if self.scores else [[hit["document"] for hit in row] for row in self.rows]
        return orjson.loads(answer) == {"result": want}


@dataclass
class Tally:
    """Counts over all requests."""

    latencies_ms: list[float] = field(default_factory=list)
    queries: int = 0
    answer_bytes: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def expected(index: BM25Index, questions: list[str]) -> list[list[dict[str, Any]]]:
    found = index.search(questions, max(TOPKS))
    ids = sorted({id_ for row in found.ids for id_ in row})
    documents = {p.id: {"id": p.id, "contents": p.contents} for p in index.passages(ids)}
    return [
        [{"document": documents[id_], "score": score} for id_, score in zip(row, scores, strict=False)]
        for row, scores in zip(found.ids, found.scores.tolist(), strict=True)
    ]


def make_request(rng: random.Random, questions: list[str], rows: list[list[dict[str, Any]]]) -> CheckedRequest:
    chosen = [rng.randrange(len(questions)) for _ in range(rng.randint(1, MAX_QUERIES))]
    topk, scores = rng.choice(TOPKS), rng.random() < 0.5
    body = orjson.dumps({"queries": [questions[i] for i in chosen], "topk": topk, "return_scores": scores})
    return CheckedRequest(body, [rows[i][:topk] for i in chosen], scores)


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bytes]:
    """Send a request on an open connection; return (status, body). Written by hand to keep the client cheap."""
    writer.write(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


async def client(port: int, rng: random.Random, args: Any, cases: Any, until: float, tally: Tally) -> None:
    questions, rows = cases
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    while time.perf_counter() < until:
        request = make_request(rng, questions, rows)
        started = time.perf_counter()
        try:
            status, answer = await asyncio.wait_for(send(reader, writer, request.body), args.timeout_s)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            tally.errors[type(error).__name__] += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
            continue
        tally.latencies_ms.append(1e3 * (time.perf_counter() - started))
        tally.queries += len(request.rows)
        tally.answer_bytes += len(answer)
        if status != 200 or not request.is_correct(answer):
            tally.errors["wrong answer" if status == 200 else f"status {status}"] += 1
    writer.close()


async def load(port: int, args: Any, cases: Any) -> tuple[Tally, float]:
    tally, started = Tally(), time.perf_counter()
    until = started + args.seconds
    rngs = [random.Random(f"{args.seed}-{number}") for number in range(args.clients)]
    await asyncio.gather(*(client(port, rng, args, cases, until, tally) for rng in rngs))
    return tally, time.perf_counter() - started


def direct_queries_per_s(index: BM25Index, args: Any, cases: Any, seconds: float = 2.0) -> float:
    """Run the same requests on the index itself, one at a time, with the answers encoded as the server does."""
    rng, done, started = random.Random(args.seed), 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        body = orjson.loads(make_request(rng, *cases).body)
        found = index.search(body["queries"], body["topk"], threads=args.threads)
        ids = sorted({id_ for row in found.ids for id_ in row})
        documents = {p.id: {"id": p.id, "contents": p.contents} for p in index.passages(ids)}
        orjson.dumps([[documents[id_] for id_ in row] for row in found.ids])
        done += len(body["queries"])
    return done / (time.perf_counter() - started)


def measure(index: BM25Index, args: argparse.Namespace) -> dict[str, Any]:
    questions = pq.read_table(args.questions, columns=["question"])["question"].to_pylist()
    cases = (questions, expected(index, questions))
    direct = direct_queries_per_s(index, args, cases)
    command = [sys.executable, "-m", "aslfast", "index", "serve", str(index.path), "--port", "0", "--json"]
    command += ["--threads", str(args.threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            port = int(json.loads(server.stdout.readline())["url"].rpartition(":")[2])
            tally, seconds = asyncio.run(load(port, args, cases))
            peak_mb = peak_memory_mb(server.pid)
        finally:
            server.terminate()
        exit_code = server.wait(60)
    return summarise(tally, seconds) | {
        "direct_queries_per_s": round(direct, 1), "server_peak_memory_mb": peak_mb, "server_exit_code": exit_code
    }  # fmt: skip


def summarise(tally: Tally, seconds: float) -> dict[str, Any]:
    ordered = sorted(tally.latencies_ms)
    spots = {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 2) for p in (20, 50, 80, 90, 99)}
    return {
        "requests": len(ordered),
        "errors": sum(tally.errors.values()),
        "errors_by_kind": dict(tally.errors),
        "latency_ms": {**spots, "max": round(ordered[-1], 2)},
        "requests_per_s": round(len(ordered) / seconds, 1),
        "queries_per_s": round(tally.queries / seconds, 1),
        "answers_mb_per_s": round(tally.answer_bytes / seconds / 1e6, 1),
    }


def peak_memory_mb(pid: int) -> float | None:
    """Return the peak of a running process, mapped files included; None where the system does not report it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((round(int(line.split()[1]) / 1e3, 1) for line in lines if line.startswith("VmHWM")), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=Path, required=True, help="corpus, .parquet or .jsonl")
    parser.add_argument("--questions", type=Path, required=True, help="Parquet with a column question")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--timeout-s", type=float, default=30.0, help="of one request, which counts as an error beyond it"
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    header = stamp("load_server", args.allow_dirty)
    with tempfile.TemporaryDirectory() as folder:
        index = BM25Index.build(args.passages, Path(folder) / "idx", threads=args.threads)
        shape = {"passages": len(index), "queries_a_request": [1, MAX_QUERIES], "topk": TOPKS}
        shape |= {name: getattr(args, name) for name in ("clients", "seconds", "threads")}
        versions = {"uvicorn": uvicorn.__version__, "orjson": orjson.__version__}
        result = {**header, "shape": shape, "versions": versions, "seed": args.seed, **measure(index, args)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if result["errors"] or result["server_exit_code"]:
        sys.exit("bench_server: there were errors")


if __name__ == "__main__":
    main()
