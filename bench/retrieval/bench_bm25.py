"""Compare BM25 engines: build, size, opening, latency, throughput and the quality of their hits.

    python -m bench.retrieval.bench_bm25 --corpus real.parquet synthetic/*.parquet \\
        --queries questions.parquet nq_questions.parquet --work runs/bm25 --out bench/results/bm25-1m.json

Every engine runs in a process of its own (engine_process.py), one at a time. They take turns: each engine answers the
next few queries, in rotating order, `--rounds` times over all queries; results are medians over the rounds. Everything
is in the page cache. The settings of each engine are in engines.py. Needs bench/retrieval/requirements.txt (and no
environment variable of an engine) and aslfast on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench.retrieval.engine_process import Worker
from bench.retrieval.engines import ENGINES, engine_version, make_engine
from bench.shared.stamp import quantiles, stamp

CHUNK = 50  # queries that an engine answers before the next engine's turn
TUNING = 2000  # the first queries of the shuffled set: for tuning, never for published results


@dataclass(frozen=True, slots=True)
class Queries:
    """The queries of a run."""

    texts: list[str]
    gold: list[str | None]  # the id of the passage that answers, where known


def read_queries(files: list[Path], n: int, seed: int, tuning: bool) -> Queries:
    """Return n queries, in an order that depends only on the seed and the files."""
    rows: list[tuple[str, str | None]] = []
    for file in files:
        table = pq.read_table(file)
        gold = table["gold_passage"].to_pylist() if "gold_passage" in table.column_names else [None] * len(table)
        rows += zip(table["question"].to_pylist(), gold, strict=True)
    random.Random(seed).shuffle(rows)
    rows = rows[:TUNING] if tuning else rows[TUNING:]
    if len(rows) < n:
        raise SystemExit(f"bench_bm25: {len(rows)} queries are left, {n} asked for; name more files or lower --n")
    texts, golds = zip(*rows[:n], strict=True)
    return Queries(list(texts), list(golds))


def read_ids(files: list[Path]) -> np.ndarray:
    """Return the ids of all passages in order, as bytes."""
    parts = [np.array(pq.read_table(file, columns=["id"])["id"].to_pylist(), np.bytes_) for file in files]
    return np.concatenate(parts)


def build_all(args: argparse.Namespace, names: Sequence[str], header: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Build each engine's index unless it is in `--reuse`; NAME.json in `--work` holds the results of its build."""
    kept = {name: read_build(args.work / f"{name}.json", header) for name in names if name in args.reuse}
    built = build_in_turns(args, [name for name in names if name not in kept])
    for name, results in built.items():
        record = {"corpus": header["corpus"], "build": {"commit": header["commit"], "date": header["date"], **results}}
        (args.work / f"{name}.json").write_text(json.dumps(record))
        kept[name] = record["build"]
    return kept


def read_build(file: Path, header: dict[str, Any]) -> dict[str, Any]:
    record = json.loads(file.read_text()) if file.exists() else {"corpus": None}
    if record["corpus"] != header["corpus"]:
        raise SystemExit(f"bench_bm25: {file}: built from another corpus; leave {file.stem} out of --reuse to build it")
    return record["build"]


def build_in_turns(args: argparse.Namespace, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(args.builds):
        for name in names:
            folder = args.work / name
            shutil.rmtree(folder, ignore_errors=True)
            worker = Worker(name, args.work / f"{name}.log")
            runs[name].append(worker.call("build", args.corpus, folder, args.build_threads))
            worker.close()
            print(f"{name}: built in {runs[name][-1]['seconds']:.1f} s", flush=True)
    return {
        name: {
            "threads": args.build_threads,
            "n": args.builds,
            "seconds": quantiles([run["seconds"] for run in values]),
            "peak_mb": round(max(run["peak_mb"] for run in values)),
        }
        for name, values in runs.items()
    }


def owners(names: Sequence[str]) -> dict[str, str]:
    """Return, for each engine, the one that builds its index: the first of its kind in ENGINES."""
    return {name: next(n for n, (kind, _) in ENGINES.items() if kind is ENGINES[name][0]) for name in names}


def turns(workers: Sequence[Worker], parts: int) -> Iterator[tuple[int, Worker]]:
    """Yield (part, worker): all workers for every part, each time starting with the next one."""
    for part in range(parts):
        for i in range(len(workers)):
            yield part, workers[(part + i) % len(workers)]


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def measure_latency(workers: Sequence[Worker], texts: list[str], ks: list[int], rounds: int) -> dict[str, Any]:
    """Return {engine: {k: {"p50", "p99", "mean"}}}: quantiles over rounds of each statistic over queries."""
    chunks = [texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK)]
    results: dict[str, Any] = {worker.engine: {} for worker in workers}
    for k in ks:
        times: dict[str, list[list[float]]] = {worker.engine: [] for worker in workers}
        for worker in workers:
            worker.call("latencies_ms", chunks[0], k)  # warms up
        for _ in range(rounds):
            for worker in workers:
                times[worker.engine].append([])
            for part, worker in turns(workers, len(chunks)):
                times[worker.engine][-1] += worker.call("latencies_ms", chunks[part], k)
        for name, values in times.items():
            results[name][str(k)] = summarise_latency(values)
            print(f"k={k} {name}: p50 {results[name][str(k)]['p50']['median']} ms", flush=True)
    return results


def summarise_latency(rounds: list[list[float]]) -> dict[str, dict[str, float]]:
    of: dict[str, Callable[[list[float]], float]] = {
        "p50": statistics.median,
        "p99": lambda values: percentile(values, 99),
        "mean": statistics.mean,
    }
    return {name: quantiles([function(values) for values in rounds]) for name, function in of.items()}


def measure_batches(
    workers: Sequence[Worker], texts: list[str], ks: list[int], threads: list[int], rounds: int
) -> dict[str, Any]:
    """Return {engine: {k: {threads: queries a second}}} of one call with all queries."""
    results: dict[str, Any] = {worker.engine: {str(k): {} for k in ks} for worker in workers}
    for k in ks:
        for n in threads:
            rates: dict[str, list[float]] = {worker.engine: [] for worker in workers}
            for worker in workers:
                worker.call("batch_s", texts[:CHUNK], k, n)  # warms up
            for _, worker in turns(workers, rounds):
                rates[worker.engine].append(len(texts) / worker.call("batch_s", texts, k, n))
            for name, values in rates.items():
                results[name][str(k)][str(n)] = quantiles(values)
                print(f"k={k} threads={n} {name}: {results[name][str(k)][str(n)]['median']:.0f}/s", flush=True)
    return results


def find_hits(worker: Worker, texts: list[str], ids: np.ndarray) -> list[list[str]]:
    """Return the ids of the ten best passages of each query."""
    rows = worker.call("hits", texts, 10)
    if make_engine(worker.engine).gives_ids:
        return rows
    return [[ids[int(number)].decode() for number in row] for row in rows]


def measure_quality(workers: Sequence[Worker], queries: Queries, ids: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the overlap at 10 with `ours`, and recall at 3 of the gold passage over the queries that have one."""
    hits = {worker.engine: find_hits(worker, queries.texts, ids) for worker in workers}
    known = np.isin(np.array([id_ or "" for id_ in queries.gold], np.bytes_), ids)
    gold = [(i, id_) for i, id_ in enumerate(queries.gold) if known[i]]
    results: dict[str, dict[str, float]] = {}
    for name, rows in hits.items():
        results[name] = {}
        if gold:
            results[name]["recall_at_3"] = round(statistics.mean(id_ in rows[i][:3] for i, id_ in gold), 4)
        if "ours" in hits:
            pairs = [(set(a), set(b)) for a, b in zip(hits["ours"], rows, strict=True) if a]
            overlap = statistics.mean(len(a & b) / len(a) for a, b in pairs)
            results[name]["overlap_at_10"] = round(overlap, 4)
    return results


def sizes(name: str, folder: Path, n: int) -> dict[str, float]:
    """Return the bytes of all files, and of those that searching needs."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    searched = sum(file.stat().st_size for file in files if make_engine(name).searched(file))
    whole = sum(file.stat().st_size for file in files)
    return {"searched": searched, "all": whole, "searched_per_passage": round(searched / n, 1)}


def open_engine(name: str, args: argparse.Namespace, folder: Path, query: str) -> tuple[Worker, dict[str, Any]]:
    """Return a worker with the index open, and medians over `--opens` processes that open it, after one to warm up."""
    times: list[dict[str, float]] = []
    for i in range(args.opens + 1):
        worker = Worker(name, args.work / f"{name}.log")
        found = worker.call("open", folder, query)
        if i:
            times.append(found)
        if i < args.opens:
            worker.close()
    return worker, {key: quantiles([found[key] for found in times])["median"] for key in times[0]}


def measure(args: argparse.Namespace, ids: np.ndarray, header: dict[str, Any]) -> dict[str, Any]:
    owner = owners(args.engines)
    builds = build_all(args, list(dict.fromkeys(owner.values())), header)
    queries = read_queries(args.queries, args.n, args.seed, args.tuning)
    texts, workers = queries.texts, []
    engines: dict[str, Any] = {}
    for name in args.engines:
        folder = args.work / owner[name]
        worker, opened = open_engine(name, args, folder, texts[0])
        workers.append(worker)
        engines[name] = {
            "version": engine_version(name),
            "note": make_engine(name).note,
            "build": {"index_of": owner[name], **builds[owner[name]]},
            "bytes": sizes(name, folder, len(ids)),
            **opened,
        }
    quality = measure_quality(workers, queries, ids)
    latency = measure_latency(workers, texts[: args.n_latency], args.k, args.rounds)
    batches = measure_batches(workers, texts, args.k, args.threads, args.rounds)
    for worker in workers:
        memory = {name: round(value) for name, value in worker.call("memory").items()}
        found = {"latency_ms": latency[worker.engine], "batch_per_s": batches[worker.engine]}
        engines[worker.engine] |= {**quality[worker.engine], **found, "memory_mb": memory}
        worker.close()
    return engines


def describe_corpus(files: list[Path], n: int) -> dict[str, Any]:
    """Describe a corpus; `bytes` is the uncompressed size of its columns."""
    groups = [pq.ParquetFile(file).metadata for file in files]
    total = sum(group.row_group(i).total_byte_size for group in groups for i in range(group.num_row_groups))
    return {"files": [file.name for file in files], "passages": n, "bytes": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="Parquet: id, contents")
    parser.add_argument("--queries", type=Path, nargs="+", required=True, help="Parquet: question, maybe gold_passage")
    parser.add_argument("--engines", type=lambda text: text.split(","), default=list(ENGINES))
    parser.add_argument("--k", type=lambda text: [int(k) for k in text.split(",")], default=[3, 10, 100])
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument(
        "--reuse", type=lambda text: text.split(","), default=[], help="engines whose index is not built again"
    )
    counts = {"n": 2000, "n-latency": 500, "rounds": 5, "builds": 1, "opens": 3, "build-threads": 2, "seed": 0}
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tuning", action="store_true", help="use the queries that are set aside for tuning")
    parser.add_argument("--work", type=Path, required=True, help="folder for the indexes; they stay there")
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if unknown := set(args.engines) - set(ENGINES):
        parser.error(f"unknown engine {min(unknown)!r}; use {', '.join(ENGINES)}")
    args.work.mkdir(parents=True, exist_ok=True)
    ids = read_ids(args.corpus)
    header = {**stamp("bm25", args.allow_dirty), "corpus": describe_corpus(args.corpus, len(ids))}
    shape = {name.replace("-", "_"): getattr(args, name.replace("-", "_")) for name in counts}
    header["queries"] = {"files": [file.name for file in args.queries], **shape, "tuning": args.tuning}
    result = {**header, "engines": measure(args, ids, header)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
