"""The page of systems: what they are, from their recipes; and the league's table and plot, from league.json.

    python -m bench.league.table [bench/results/league.json]

Rewrites what is between the markers of docs/field.md and, with a result, docs/img/league.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from aslfast.config import about_recipe, recipe_names
from aslfast.config.checks.about import NEEDS
from aslfast.files.atomic import write_text
from bench.paper_claims.statistics import mean_difference
from bench.shared.pages import replace_block
from bench.shared.results import Result, read_result
from bench.shared.stamp import ROOT

PAGE, PICTURE = ROOT / "docs" / "field.md", ROOT / "docs" / "img" / "league.png"
SYSTEMS, LEAGUE, END = (
    "<!-- systems: made by bench/league/table.py -->",
    "<!-- league: made by it too -->",
    "<!-- end -->",
)
COLUMNS = "| recipe | accuracy | gain, points (95%) | by hops | judge | solvable | gap | steps | minutes |"


def tables(result: Result) -> Iterator[str]:
    """Yield the table, the best recipe first."""
    yield COLUMNS
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    league = result["league"]
    for name in sorted(league, key=lambda name: -mean([run["accuracy"] for run in league[name]])):
        yield f"| {name} | {' | '.join(_cells(league[name]))} |"
    yield ""
    yield (
        f"{result['tokens']:,} sampled tokens a run, seeds {', '.join(map(str, result['seeds']))}. Accuracy: exact "
        f"match on held-out questions at the budget, by hops from one on; gain: over the base, t interval over seeds."
    )


def mean(values: Sequence[float | None]) -> float:
    """Return the mean of what is there; NaN of nothing."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else float("nan")


def _cells(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    gains = [100 * (run["accuracy"] - run["before"]) for run in runs]
    yield f"{mean([run['accuracy'] for run in runs]):.1%}"
    if len(gains) > 1:
        interval = mean_difference(gains)
        yield f"{interval.value:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"
    else:
        yield f"{gains[0]:+.1f}"
    yield "/".join(f"{100 * mean([run['by_hops'][hop] for run in runs]):.0f}" for hop in runs[0]["by_hops"])
    yield from (_share([run[key] for run in runs]) for key in ("judge", "solvable", "gap"))
    yield f"{mean([run['steps'] for run in runs]):.0f}"
    yield f"{mean([run['minutes'] for run in runs]):.0f}"


def _share(values: Sequence[float | None]) -> str:
    return "-" if all(value is None for value in values) else f"{mean(values):.1%}"


def draw(result: Result, file: Path) -> None:
    """Draw each recipe's gain over the base, a point a seed, the best on top."""
    league = result["league"]
    order = sorted(league, key=lambda name: mean([run["accuracy"] for run in league[name]]))
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(order)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, name in enumerate(order):
        values = [run["accuracy"] for run in league[name]]
        axes.plot([league[name][0]["before"], mean(values)], [place, place], color="0.8", lw=3, zorder=1)
        axes.plot(values, [place] * len(values), "o", color="#0072B2", ms=5, zorder=2)
        axes.plot([mean(values)], [place], "|", color="#D55E00", ms=12, mew=2, zorder=3)
    axes.set_yticks(range(len(order)), order, fontsize=9)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(f"Accuracy at {result['tokens']:,} sampled tokens; bar: the mean", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    figure.savefig(file, format="png", metadata={"Software": None})


def systems() -> Iterator[str]:
    """Yield a row for each recipe of a paper that has one in the lab too, by name."""
    yield "| recipe | what it is | roles | needs | source |"
    yield "|---|---|---|---|---|"
    names = recipe_names()
    for name in names:
        if f"{name}-tiny" in names:
            about = about_recipe(name)
            line = about.line.partition(": ")[2] or about.line
            needs = ", ".join(NEEDS[need] for need in about.needs) or "-"
            yield f"| `{name}` | {line} | {', '.join(about.roles)} | {needs} | {about.paper} |"


def page(text: str, result: Result | None) -> str:
    """Return the page with its table of systems and, where there is a result, the league's."""
    text = replace_block(text, SYSTEMS, END, list(systems()))
    if result is None:
        return text
    return replace_block(text, LEAGUE, END, [*tables(result), "", "![Accuracy at the same budget](img/league.png)"])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, nargs="?")
    file = parser.parse_args().result
    result = read_result(file) if file else None
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8"), result))
    if result:
        draw(result, PICTURE)


if __name__ == "__main__":
    main()
