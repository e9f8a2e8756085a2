"""BM25 engines side by side: build, size, opening, latency, throughput and the quality of what they find.

    python -m bench.retrieval.bench_bm25 --corpus real.parquet made-up/*.parquet --queries questions.parquet nq_questions.parquet
        --work runs/bm25 --out bench/results/bm25-1m.json

Every engine lives in a process of its own (bm25_worker.py); one works at a time. They take turns: for every few
queries each engine answers them, the order of the engines turning round; `--rounds` times over all queries; figures
are medians over the rounds. Everything is in the page cache. What each engine is given stands in bm25_engines.py.
Needs bench/retrieval/requirements.txt (never an engine's own settings by environment) and aslfast on PYTHONPATH.
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

CHUNK = 50  # queries that an engine answers before the next one has its turn
TUNING = 2000  # the first queries of the shuffled set: for trying things, never for figures


@dataclass(frozen=True, slots=True)
class Queries:
    texts: list[str]
    gold: list[str | None]  # the id of the passage that answers, where known


def read_queries(files: list[Path], n: int, seed: int, tuning: bool) -> Queries:
    """n queries, in an order that the seed and the files alone decide."""
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
    """Of all passages in order, as bytes."""
    parts = [np.array(pq.read_table(file, columns=["id"])["id"].to_pylist(), np.bytes_) for file in files]
    return np.concatenate(parts)


def build_all(args: argparse.Namespace, names: Sequence[str], facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Builds each engine's index, but for `--reuse`; beside each stands a file with the figures of its build."""
    kept = {name: read_build(args.work / f"{name}.json", facts) for name in names if name in args.reuse}
    built = build_in_turns(args, [name for name in names if name not in kept])
    for name, figures in built.items():
        record = {"corpus": facts["corpus"], "build": {"commit": facts["commit"], "date": facts["date"], **figures}}
        (args.work / f"{name}.json").write_text(json.dumps(record))
        kept[name] = record["build"]
    return kept


def read_build(file: Path, facts: dict[str, Any]) -> dict[str, Any]:
    record = json.loads(file.read_text()) if file.exists() else {"corpus": None}
    if record["corpus"] != facts["corpus"]:
        raise SystemExit(f"bench_bm25: {file}: not of this corpus; leave {file.stem} out of --reuse to build it")
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
    """The engine that builds the index each one searches: the first of its kind in ENGINES."""
    return {name: next(n for n, (kind, _) in ENGINES.items() if kind is ENGINES[name][0]) for name in names}


def turns(workers: Sequence[Worker], parts: int) -> Iterator[tuple[int, Worker]]:
    """(part, worker): all workers for every part, each time another one first."""
    for part in range(parts):
        for i in range(len(workers)):
            yield part, workers[(part + i) % len(workers)]


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def measure_latency(workers: Sequence[Worker], texts: list[str], ks: list[int], rounds: int) -> dict[str, Any]:
    """{engine: {k: {"p50", "p99", "mean"}}}, each the quantiles over rounds of that figure over queries."""
    chunks = [texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK)]
    figures: dict[str, Any] = {worker.engine: {} for worker in workers}
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
            figures[name][str(k)] = summarise_latency(values)
            print(f"k={k} {name}: p50 {figures[name][str(k)]['p50']['median']} ms", flush=True)
    return figures


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
    """{engine: {k: {threads: queries a second}}} of one call with all the queries."""
    figures: dict[str, Any] = {worker.engine: {str(k): {} for k in ks} for worker in workers}
    for k in ks:
        for n in threads:
            rates: dict[str, list[float]] = {worker.engine: [] for worker in workers}
            for worker in workers:
                worker.call("batch_s", texts[:CHUNK], k, n)  # warms up
            for _, worker in turns(workers, rounds):
                rates[worker.engine].append(len(texts) / worker.call("batch_s", texts, k, n))
            for name, values in rates.items():
                figures[name][str(k)][str(n)] = quantiles(values)
                print(f"k={k} threads={n} {name}: {figures[name][str(k)][str(n)]['median']:.0f}/s", flush=True)
    return figures


def find_hits(worker: Worker, texts: list[str], ids: np.ndarray) -> list[list[str]]:
    """The ids of the best ten of each query."""
    rows = worker.call("hits", texts, 10)
    if make_engine(worker.engine).gives_ids:
        return rows
    return [[ids[int(number)].decode() for number in row] for row in rows]


def measure_quality(workers: Sequence[Worker], queries: Queries, ids: np.ndarray) -> dict[str, dict[str, float]]:
    """Overlap at 10 with `ours`, and how often the gold passage is among the best 3 (where there is one)."""
    hits = {worker.engine: find_hits(worker, queries.texts, ids) for worker in workers}
    known = np.isin(np.array([id_ or "" for id_ in queries.gold], np.bytes_), ids)
    gold = [(i, id_) for i, id_ in enumerate(queries.gold) if known[i]]
    figures: dict[str, dict[str, float]] = {}
    for name, rows in hits.items():
        figures[name] = {}
        if gold:
            figures[name]["recall_at_3"] = round(statistics.mean(id_ in rows[i][:3] for i, id_ in gold), 4)
        if "ours" in hits:
            pairs = [(set(a), set(b)) for a, b in zip(hits["ours"], rows, strict=True) if a]
            overlap = statistics.mean(len(a & b) / len(a) for a, b in pairs)
            figures[name]["overlap_at_10"] = round(overlap, 4)
    return figures


def sizes(name: str, folder: Path, n: int) -> dict[str, float]:
    """Bytes of all files, and of those that searching needs."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    searched = sum(file.stat().st_size for file in files if make_engine(name).searched(file))
    whole = sum(file.stat().st_size for file in files)
    return {"searched": searched, "all": whole, "searched_per_passage": round(searched / n, 1)}


def open_engine(name: str, args: argparse.Namespace, folder: Path, query: str) -> tuple[Worker, dict[str, Any]]:
    """A worker with the index open, and the median of `--opens` processes that open it; one before them warms up."""
    times: list[dict[str, float]] = []
    for i in range(args.opens + 1):
        worker = Worker(name, args.work / f"{name}.log")
        found = worker.call("open", folder, query)
        if i:
            times.append(found)
        if i < args.opens:
            worker.close()
    return worker, {key: quantiles([found[key] for found in times])["median"] for key in times[0]}


def measure(args: argparse.Namespace, ids: np.ndarray, facts: dict[str, Any]) -> dict[str, Any]:
    owner = owners(args.engines)
    builds = build_all(args, list(dict.fromkeys(owner.values())), facts)
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


def corpus_facts(files: list[Path], n: int) -> dict[str, Any]:
    """`bytes` is what the columns take, not compressed."""
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
    parser.add_argument("--reuse", type=lambda text: text.split(","), default=[], help="engines not to build anew")
    counts = {"n": 2000, "n-latency": 500, "rounds": 5, "builds": 1, "opens": 3, "build-threads": 2, "seed": 0}
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tuning", action="store_true", help="queries that are for trying things, not for figures")
    parser.add_argument("--work", type=Path, required=True, help="folder for the indexes; they stay there")
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if unknown := set(args.engines) - set(ENGINES):
        parser.error(f"unknown engine {min(unknown)!r}; use {', '.join(ENGINES)}")
    args.work.mkdir(parents=True, exist_ok=True)
    ids = read_ids(args.corpus)
    facts = {**stamp("bm25", args.allow_dirty), "corpus": corpus_facts(args.corpus, len(ids))}
    shape = {name.replace("-", "_"): getattr(args, name.replace("-", "_")) for name in counts}
    facts["queries"] = {"files": [file.name for file in args.queries], **shape, "tuning": args.tuning}
    result = {**facts, "engines": measure(args, ids, facts)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
