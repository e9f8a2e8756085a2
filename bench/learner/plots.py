"""The picture of the learner: a step's rate by side, a round's parts by phase, memory and rate over a soak's steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.learner.tables import SECONDS, clock_of, shown_round, whole_round
from bench.shared.results import Result

# Okabe and Ito 2008: distinguishable with any kind of colour vision
OURS, THEIRS = "#0072B2", "#9aa5ad"
PARTS = {
    "rollout": "#0072B2", "learn": "#E69F00", "tool": "#009E73", "reward": "#CC79A7", "sync": "#56B4E9",
    "commit": "#D55E00", "monitor": "#F0E442", "rest": "#9aa5ad",
}  # fmt: skip
PHASES = {"generator": ("#0072B2", "o"), "grm": ("#D55E00", "s"), "policy": ("#009E73", "^")}
LABELLED_FROM = 0.06  # of the longest bar: a narrower segment has no room for its percentage
GRID_COLOUR = "0.9"


def draw(results: Mapping[str, Result], file: Path) -> None:
    """Draw the panels of the results that exist."""
    panels = [(panel, results[name]) for name, drawn in PANELS.items() if name in results for panel in drawn]
    n_high = -(-len(panels) // 2)
    figure = Figure(figsize=(12, 0.4 + 3.4 * n_high), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(n_high, min(2, len(panels)), squeeze=False).flatten()
    for axes, (draw_panel, result) in zip(places, panels, strict=False):
        draw_panel(axes, result)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    figure.savefig(file, format="png", metadata={"Software": None})


def _step(axes: Axes, result: Result) -> None:
    """Draw a bar a side, with p20 to p80."""
    rows, loss_tokens = result["rows"], result["loss_tokens"]
    values = [row["loss_tokens_per_s"] for row in rows]
    spread = [
        [value - loss_tokens / row["seconds"]["p80"] for value, row in zip(values, rows, strict=True)],
        [loss_tokens / row["seconds"]["p20"] - value for value, row in zip(values, rows, strict=True)],
    ]
    colours = [OURS if row["side"].startswith("packed") else THEIRS for row in rows]
    bars = axes.barh([row["side"] for row in rows], values, color=colours, xerr=spread, error_kw={"lw": 1})
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=8, fontsize=9)
    axes.set_title("The learner's step: loss tokens per second", loc="left", fontsize=11)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("more is better; p20 to p80")
    axes.grid(axis="x", color=GRID_COLOUR)


def _round(axes: Axes, result: Result) -> None:
    """Draw a bar a phase, in parts; percentages of the phase where there is room for them."""
    one, clock = shown_round(result), clock_of(result)
    rows = [*one["phases"], {**whole_round(one), "phase": "round"}]
    names, longest = [row["phase"] for row in rows], max(row[clock] for row in rows)
    before = [0.0] * len(rows)
    for part, colour in PARTS.items():
        values = [row["parts"][part][clock] for row in rows]
        percentages = [
            f"{100 * value / row[clock]:.0f}%" if value > LABELLED_FROM * longest else ""
            for value, row in zip(values, rows, strict=True)
        ]
        bars = axes.barh(names, values, left=before, color=colour, label=part)
        axes.bar_label(bars, percentages, label_type="center", fontsize=9, color="white")
        before = [start + value for start, value in zip(before, values, strict=True)]
    axes.set_title("A round by part", loc="left", fontsize=11)
    axes.set_xlabel(f"{SECONDS[result['rates_of']]}, s")
    axes.invert_yaxis()
    axes.legend(ncols=4, frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    axes.grid(axis="x", color=GRID_COLOUR)


def _memory(axes: Axes, result: Result) -> None:
    """Draw the memory by step."""
    column = result["columns"].index("rss_mib")
    axes.plot([row[column] for row in result["rows"]], color=OURS)
    axes.set_ylim(bottom=0)
    axes.set_title("A soak: anonymous memory, MiB", loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.grid(axis="y", color=GRID_COLOUR)


def _time_per_token(axes: Axes, result: Result) -> None:
    """Draw a mark a step, by phase."""
    phase, seconds, tokens = (result["columns"].index(name) for name in ("phase", "seconds", "tokens"))
    for name, (colour, marker) in PHASES.items():
        found = [(i, 1e6 * row[seconds] / row[tokens]) for i, row in enumerate(result["rows"]) if row[phase] == name]
        axes.plot(*zip(*found, strict=True), color=colour, marker=marker, label=name, ls="", ms=3, alpha=0.6, mew=0)
    axes.set_ylim(bottom=0)
    axes.set_title("A soak: processor time per token, microseconds", loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.legend(ncols=3, frameon=False, fontsize=9, loc="lower left")
    axes.grid(axis="y", color=GRID_COLOUR)


PANELS = {"step": (_step,), "round": (_round,), "soak": (_memory, _time_per_token)}
