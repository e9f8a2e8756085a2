"""Measure how time, memory and disk grow with the corpus: aslfast alone, built and searched at several sizes.

    python -m bench.retrieval.bench_bm25_curve --corpus synthetic/*.parquet --passages 1000000,5000000,21000000 \
        --queries questions.parquet nq_questions.parquet --work runs/curve --out bench/results/bm25-curve.json

Files are taken whole, in order, until a size is reached. Every size is built from raw text in a process of
its own, and its index is removed before the next one is built; the peak of memory is that of the process, mapped file
pages included. The build records its state every million passages.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.retrieval.bench_bm25 import describe_corpus, read_queries, sizes, summarise_latency
from bench.retrieval.engine_process import Worker, memory_mb
from bench.retrieval.engines import K1, B, engine_version
from bench.shared.stamp import quantiles, stamp

STEP = 1_000_000  # passages between two points of a build


def bytes_in(folder: Path) -> int:
    """Return the size of all files; those that disappear meanwhile (merged runs) do not count."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def build(files: list[Path], folder: Path, options: dict[str, int]) -> dict[str, Any]:
    """Build the index, in a process of its own. `disk` includes temporary files in the index's parent folder."""
    from aslfast.index.bm25 import BM25Index

    start, points = time.perf_counter(), []

    def point(passages: int) -> dict[str, float]:
        memory = memory_mb()
        found = {"passages": passages, "seconds": round(time.perf_counter() - start, 1)}
        used = {"rss_mb": round(memory["VmRSS"]), "peak_mb": round(memory["VmHWM"])}
        return {**found, **used, "disk": bytes_in(folder.parent)}

    def progress(passages: int) -> None:
        if passages // STEP > len(points):
            points.append(point(passages))

    index = BM25Index.build(files, folder, k1=K1, b=B, analyzer="english", progress=progress, **options)
    return {"on_the_way": points, "whole": point(len(index))}


def take_files(files: list[Path], passages: int) -> list[Path]:
    taken, n = [], 0
    for file in files:
        if n >= passages:
            break
        taken.append(file)
        n += pq.ParquetFile(file).metadata.num_rows
    if n < passages:
        raise SystemExit(f"bench_bm25_curve: the files hold {n} passages, {passages} asked for; add files")
    return taken


def search(folder: Path, texts: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Measure opening, latency and throughput of the index in a process that has not built it."""
    worker = Worker("ours", args.work / "ours.log")
    found: dict[str, Any] = {name: round(ms, 3) for name, ms in worker.call("open", folder, texts[0]).items()}
    found["latency_ms"], found["batch_per_s"] = {}, {}
    for k in args.k:
        worker.call("latencies_ms", texts[:100], k)
        rounds = [worker.call("latencies_ms", texts, k) for _ in range(args.rounds)]
        found["latency_ms"][str(k)] = summarise_latency(rounds)
        rates = [len(texts) / worker.call("batch_s", texts, k, args.threads) for _ in range(args.rounds)]
        found["batch_per_s"][str(k)] = {str(args.threads): quantiles(rates)}
    found["memory_mb"] = {name: round(mb) for name, mb in worker.call("memory").items()}
    worker.close()
    return found


def measure(args: argparse.Namespace, passages: int, texts: list[str]) -> dict[str, Any]:
    files, place = take_files(args.corpus, passages), args.work / "curve"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    options = {"threads": args.threads} | ({"memory_mb": args.memory_mb} if args.memory_mb else {})
    with get_context("spawn").Pool(1) as process:
        built = process.apply(build, (files, place / "index", options))
    n = built["whole"]["passages"]
    results = {"corpus": describe_corpus(files, n), "options": options, "build": built}
    results["bytes"] = sizes("ours", place / "index", n)
    print(f"{n:,} passages: {built['whole']}, {results['bytes']['all'] / n:.0f} bytes a passage", flush=True)
    results |= search(place / "index", texts, args)
    shutil.rmtree(place)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="Parquet: id, contents")
    parser.add_argument("--passages", type=lambda text: [int(n) for n in text.split(",")], required=True)
    parser.add_argument("--queries", type=Path, nargs="+", required=True)
    parser.add_argument("--k", type=lambda text: [int(k) for k in text.split(",")], default=[3, 10, 100])
    for name, default in {"n": 500, "rounds": 3, "threads": 2, "seed": 0, "memory-mb": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="0: aslfast's default")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    header = {**stamp("bm25-curve", args.allow_dirty), "version": engine_version("ours"), "seed": args.seed}
    texts = read_queries(args.queries, args.n, args.seed, tuning=False).texts
    result = {**header, "n": args.n, "rounds": args.rounds, "sizes": []}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for passages in args.passages:
        result["sizes"].append(measure(args, passages, texts))
        args.out.write_text(json.dumps(result, indent=2) + "\n")  # after each size: a later one may not fit


if __name__ == "__main__":
    main()
