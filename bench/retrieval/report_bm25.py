"""Make the table and the plot of the README from the results of bench_bm25.py.

    python -m bench.retrieval.report_bm25 bench/results/bm25-*.json --plot docs/img/bm25.png

Prints Markdown: for every corpus a table, how aslfast compares with the best peer, and every metric where a peer is
ahead. A peer with approximate scores (8 bits) is shown, but never counts as "the best peer".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = {
    "ours": "**aslfast**",
    "bm25s": "bm25s + numba",
    "tantivy": "tantivy",
    "pisa": "PISA block-max MaxScore",
    "pisa-maxscore": "PISA MaxScore",
    "pisa-8bit": "PISA MaxScore, 8-bit scores",
}
APPROXIMATE = {"pisa-8bit"}


@dataclass(frozen=True, slots=True)
class Metric:
    """One column: its title, how to read it from an engine's results, its format, and whether less is better."""

    title: str
    read: Callable[[dict[str, Any]], float]
    form: str
    less: bool


def latency(k: str, name: str) -> Callable[[dict[str, Any]], float]:
    return lambda engine: engine["latency_ms"][k][name]["median"]


def rate(k: str, threads: str) -> Callable[[dict[str, Any]], float]:
    return lambda engine: engine["batch_per_s"][k][threads]["median"]


def build_rate(passages: int) -> Metric:
    return Metric("build, passages/s", lambda e: passages / e["build"]["seconds"]["median"], "{:,.0f}", False)


def metrics(result: dict[str, Any]) -> list[Metric]:
    """Return all metrics that are compared, in order."""
    some = next(iter(result["engines"].values()))
    found = []
    for k in some["latency_ms"]:
        found += [Metric(f"{name} k={k}, ms", latency(k, name), "{:.3g}", True) for name in ("p50", "p99")]
    for k, rates in some["batch_per_s"].items():
        found += [Metric(f"batch k={k}, q/s, {n} thr.", rate(k, n), "{:,.0f}", False) for n in rates]
    found.append(build_rate(result["corpus"]["passages"]))
    found.append(Metric("build, peak MB", lambda e: e["build"]["peak_mb"], "{:,.0f}", True))
    found.append(Metric("index, B/passage", lambda e: e["bytes"]["searched_per_passage"], "{:.0f}", True))
    found.append(Metric("open, ms", lambda e: e["open_ms"], "{:.3g}", True))
    found.append(Metric("private memory, MB", lambda e: e["memory_mb"]["RssAnon"], "{:,.0f}", True))
    return found


def in_table(metric: Metric) -> bool:
    """Return whether the table shows a metric: k = 3 (a search tool's) and p50 at 100. The rest is in the JSON."""
    return "k=3" in metric.title or metric.title.startswith(("p50 k=100", "build, passages", "index", "private"))


def best_peer(result: dict[str, Any], metric: Metric) -> tuple[str, float]:
    peers = {name: metric.read(e) for name, e in result["engines"].items() if name not in APPROXIMATE | {"ours"}}
    name = (min if metric.less else max)(peers, key=peers.__getitem__)
    return name, peers[name]


def advantage(metric: Metric, ours: float, theirs: float) -> float:
    """Return how many times better ours is; below 1 it is worse."""
    if not ours or not theirs:
        return float("inf") if metric.less and not ours else 0.0
    return theirs / ours if metric.less else ours / theirs


def table(result: dict[str, Any]) -> Iterator[str]:
    columns = [metric for metric in metrics(result) if in_table(metric)]
    quality = {"same in top 10": "overlap_at_10", "recall@3": "recall_at_3"}
    titles = [*(metric.title for metric in columns), *quality]
    yield f"| engine | {' | '.join(titles)} |"
    yield f"|---|{'---|' * len(titles)}"
    for name, engine in result["engines"].items():
        cells = [metric.form.format(metric.read(engine)) for metric in columns]
        cells += [f"{engine[key]:.3f}" if key in engine else "" for key in quality.values()]
        mark = " \\*" if name in APPROXIMATE else ""
        yield f"| {NAMES[name]} {engine['version']}{mark} | {' | '.join(cells)} |"
    if "ours" in result["engines"]:
        ratios = [f"{advantage(f, f.read(result['engines']['ours']), best_peer(result, f)[1]):.2f}x" for f in columns]
        yield f"| aslfast against the best peer | {' | '.join(ratios)} |{' |' * len(quality)}"


def losses(result: dict[str, Any]) -> Iterator[str]:
    """Yield a line for every metric where aslfast is behind an engine, approximate ones included."""
    engines = result["engines"]
    for metric in metrics(result):
        ours = metric.read(engines["ours"])
        ahead = [
            f"{NAMES[name]} {metric.form.format(metric.read(engine))}"
            for name, engine in engines.items()
            if name != "ours" and advantage(metric, ours, metric.read(engine)) < 1
        ]
        if ahead:
            yield f"- {metric.title}: {metric.form.format(ours)}; {', '.join(ahead)}"


def describe(result: dict[str, Any]) -> str:
    queries, dirty = result["queries"], ", tree not clean" if result["dirty"] else ""
    return (
        f"{result['corpus']['passages']:,} passages ({result['corpus']['bytes'] / 1e9:.2f} GB of text), "
        f"{queries['n_latency']} single queries, batches of {queries['n']}, {queries['rounds']} rounds, "
        f"engines alternating; {result['device']}, {result['cores']} cores, commit {result['commit'][:8]}{dirty}, "
        f"{result['date'][:10]}"
    )


def report(results: list[dict[str, Any]]) -> Iterator[str]:
    for result in results:
        yield from ("", describe(result), "")
        yield from table(result)
        if "ours" in result["engines"]:
            behind = list(losses(result)) or ["nowhere"]
            yield from ("", "Where aslfast is behind:", "", *behind)
    noted = {name: engine["note"] for result in results for name, engine in result["engines"].items()}
    yield from ("", *(f"- {NAMES[name].strip('*')}: {note}." for name, note in noted.items()))
    if APPROXIMATE & noted.keys():
        yield from ("", "\\* not exact; left out of the ratios.")


def draw(results: list[dict[str, Any]], file: Path) -> None:
    """Plot latency at k = 3 and throughput on most threads: a column for every corpus, axes that start at 0."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    threads = max(next(iter(results[0]["engines"].values()))["batch_per_s"]["3"], key=int)
    rows = {
        "one query, k = 3: median ms (less is better)": latency("3", "p50"),
        f"batch, k = 3, {threads} threads: queries/s (more is better)": rate("3", threads),
    }
    size = (2.2 + 3.4 * len(results), 5)
    figure, axes = plt.subplots(len(rows), len(results), figsize=size, layout="constrained", squeeze=False)
    for line, (title, read) in zip(axes, rows.items(), strict=True):
        for i, (axis, result) in enumerate(zip(line, results, strict=True)):
            draw_panel(axis, result, read, names=i == 0)
            axis.set_title(f"{'' if i else title}\n{result['corpus']['passages'] / 1e6:.3g}M passages", fontsize=9)
            axis.title.set_ha("left")
            axis.title.set_x(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def draw_panel(axis: Any, result: dict[str, Any], read: Callable[[dict[str, Any]], float], names: bool) -> None:
    values = [read(result["engines"][name]) if name in result["engines"] else 0 for name in NAMES]
    labels = [NAMES[name].strip("*") + (" (not exact)" if name in APPROXIMATE else "") for name in NAMES]
    colours = ["#c0392b" if name == "ours" else "#c5ccd3" if name in APPROXIMATE else "#7b8a99" for name in NAMES]
    bars = axis.barh(range(len(NAMES)), values, color=colours)
    axis.bar_label(
        bars,
        ["not measured" if not v else f"{v:.3g}" if v < 1000 else f"{v:,.0f}" for v in values],
        fontsize=8,
        padding=2,
    )
    axis.set_yticks(range(len(NAMES)), labels if names else [], fontsize=8)
    axis.invert_yaxis()
    axis.set_xticks([])
    axis.margins(x=0.2)
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    results = [json.loads(file.read_text()) for file in args.results]
    results = sorted((r for r in results if r["bench"] == "bm25"), key=lambda r: r["corpus"]["passages"])
    print("\n".join(report(results)).strip())
    if args.plot:
        draw(results, args.plot)


if __name__ == "__main__":
    main()
