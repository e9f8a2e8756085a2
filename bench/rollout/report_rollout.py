"""The table and the picture of docs/rollout.md from what bench_rollout.py measured.

python -m bench.rollout.report_rollout bench/results/rollout-cpu.json --picture docs/img/rollout.png
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.shared.results import Result, read_result

COLUMNS = {
    "tokens/s": ("tokens_per_s", "{:,.0f}"),
    "trajectories/s": ("trajectories_per_s", "{:.2f}"),
    "slots idle": ("slots_idle", "{:.0%}"),
    "time below capacity": ("below_capacity", "{:.0%}"),
    "time empty": ("empty", "{:.1%}"),
    "reused of reusable": ("reused_of_reusable", "{:.0%}"),
    "p50, s": ("p50_s", "{:.2f}"),
    "p99, s": ("p99_s", "{:.2f}"),
}


PANELS = {
    "tokens/s (more is better)": ("tokens_per_s", 1, "{:,.0f}"),
    "slots idle, % (less is better)": ("slots_idle", 100, "{:.0f}"),
    "p99 seconds of a trajectory (less is better)": ("p99_s", 1, "{:.1f}"),
}


def describe(result: Result) -> str:
    """Return what was measured, and where."""
    setting, lengths = result["setting"], result["lengths"]
    dirty = ", uncommitted changes" if result["dirty"] else ""
    ours = next(iter(result["metrics"].values()))
    return (
        f"{setting['sampler']}, {setting['model']}, {setting['max_running_requests']} slots, "
        f"{ours['trajectories']['median']:.0f} trajectories of {ours['tokens']['median']:,.0f} sampled tokens (a turn: "
        f"log-normal, median {lengths['median_tokens']:g}, sigma {lengths['sigma_tokens']:g}, at most "
        f"{lengths['max_tokens']}; turns: median {lengths['median_turns']:g}, sigma {lengths['sigma_turns']:g}, at "
        f"most {lengths['max_turns']}), {result['n']} repeats in turns; {result['device']}, {result['cores']} cores, "
        f"load {result['load_average']:.1f}, commit {result['commit'][:8]}{dirty}, {result['date'][:10]}"
    )


def table(result: Result) -> Iterator[str]:
    """Yield a row a variant."""
    yield f"| variant | ours is faster by | {' | '.join(COLUMNS)} |"
    yield f"|---|---:|{'---:|' * len(COLUMNS)}"
    for name, metrics in result["metrics"].items():
        against = result["ours_against"].get(name)
        times = f"{against['median']:.2f}x ({against['p20']:.2f}-{against['p80']:.2f})" if against else ""
        cells = [form.format(metrics[key]["median"]) for key, form in COLUMNS.values()]
        yield f"| {'**ours**' if name == 'ours' else name} | {times} | {' | '.join(cells)} |"


def draw(result: Result, file: Path) -> None:
    """Draw throughput, idle slots and the slowest trajectories, a bar a variant."""
    figure = Figure(figsize=(12, 3), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(result["metrics"])
    axes = figure.subplots(1, len(PANELS), squeeze=False).flatten()
    for i, (axis, title) in enumerate(zip(axes, PANELS, strict=True)):
        _panel(axis, result, title)
        axis.set_yticks(range(len(names)), names if i == 0 else [""] * len(names), fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def _panel(axis: Axes, result: Result, title: str) -> None:
    """Draw a bar a variant, with p20 to p80."""
    key, factor, form = PANELS[title]
    found = {name: metrics[key] for name, metrics in result["metrics"].items()}
    values = [factor * f["median"] for f in found.values()]
    spread = [
        [factor * (f["median"] - f["p20"]) for f in found.values()],
        [factor * (f["p80"] - f["median"]) for f in found.values()],
    ]
    colours = ["#0072B2" if name == "ours" else "#9aa5ad" for name in found]
    bars = axis.barh(list(found), values, color=colours, xerr=spread, error_kw={"lw": 1, "ecolor": "#444"})
    axis.bar_label(bars, [form.format(value) for value in values], padding=8, fontsize=9)
    axis.set_title(title, fontsize=10, loc="left")
    axis.invert_yaxis()
    axis.set_xticks([])
    axis.margins(x=0.25)
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path, help="of the first result")
    args = parser.parse_args()
    results = [read_result(file) for file in args.results]
    for result in results:
        print("\n".join(["", describe(result), "", *table(result)]))
    if args.picture:
        draw(results[0], args.picture)


if __name__ == "__main__":
    main()
