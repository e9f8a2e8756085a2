"""The table and the picture of docs/rollout.md from what bench_rollout.py measured.

python -m bench.rollout.report_rollout bench/results/rollout-cpu.json --picture docs/rollout.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLUMNS = {
    "tokens/s": ("tokens_per_s", "{:,.0f}"),
    "trajectories/s": ("trajectories_per_s", "{:.2f}"),
    "rows idle": ("rows_idle", "{:.0%}"),
    "time below capacity": ("below_capacity", "{:.0%}"),
    "time empty": ("empty", "{:.1%}"),
    "reused of reusable": ("reused_of_reusable", "{:.0%}"),
    "p50, s": ("p50_s", "{:.2f}"),
    "p99, s": ("p99_s", "{:.2f}"),
}


def describe(result: dict[str, Any]) -> str:
    setting, lengths = result["setting"], result["lengths"]
    dirty = ", tree not clean" if result["dirty"] else ""
    tokens = next(iter(result["figures"].values()))
    return (
        f"{setting['sampler']}, {setting['model']}, {setting['rows']} rows, {tokens['trajectories']['median']:.0f} "
        f"trajectories of {tokens['tokens']['median']:,.0f} sampled tokens (a turn: log-normal, median "
        f"{lengths['median_tokens']:g}, sigma {lengths['sigma_tokens']:g}, at most {lengths['most_tokens']}; turns: "
        f"median {lengths['median_turns']:g}, sigma {lengths['sigma_turns']:g}, at most {lengths['most_turns']}), "
        f"{result['n']} repeats in turns; {result['device']}, {result['cores']} cores, load "
        f"{result['load_average']:.1f}, commit {result['commit'][:8]}{dirty}, {result['date'][:10]}"
    )


def table(result: dict[str, Any]) -> Iterator[str]:
    yield f"| variant | ours is faster by | {' | '.join(COLUMNS)} |"
    yield f"|---|---:|{'---:|' * len(COLUMNS)}"
    for name, figures in result["figures"].items():
        against = result["ours_against"].get(name)
        times = f"{against['median']:.2f}x ({against['p20']:.2f}-{against['p80']:.2f})" if against else ""
        cells = [form.format(figures[key]["median"]) for key, form in COLUMNS.values()]
        yield f"| {'**ours**' if name == 'ours' else name} | {times} | {' | '.join(cells)} |"


def draw(result: dict[str, Any], file: Path) -> None:
    """Throughput and idle rows, a bar a variant, with p20 to p80."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(result["figures"])
    colours = ["#0072B2" if name == "ours" else "#9aa5ad" for name in names]
    panels = {
        "tokens/s (more is better)": ("tokens_per_s", 1, "{:,.0f}"),
        "rows idle, % (less is better)": ("rows_idle", 100, "{:.0f}"),
        "p99 seconds of a trajectory (less is better)": ("p99_s", 1, "{:.1f}"),
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 3), layout="constrained")
    for i, (axis, (title, (key, factor, form))) in enumerate(zip(axes, panels.items(), strict=True)):
        found = [result["figures"][name][key] for name in names]
        values = [factor * f["median"] for f in found]
        spread = [
            [factor * (f["median"] - f["p20"]) for f in found],
            [factor * (f["p80"] - f["median"]) for f in found],
        ]
        bars = axis.barh(names, values, color=colours, xerr=spread, error_kw={"lw": 1, "ecolor": "#444"})
        axis.bar_label(bars, [form.format(value) for value in values], padding=8, fontsize=9)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_yticks(range(len(names)), names if i == 0 else [""] * len(names), fontsize=10)
        axis.invert_yaxis()
        axis.set_xticks([])
        axis.margins(x=0.25)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path, help="of the first")
    args = parser.parse_args()
    results = [json.loads(file.read_text()) for file in args.results]
    for result in results:
        print("\n".join(["", describe(result), "", *table(result)]))
    if args.picture:
        draw(results[0], args.picture)


if __name__ == "__main__":
    main()
