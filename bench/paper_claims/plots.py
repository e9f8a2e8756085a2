"""The plot of the claims: one panel per claim, the accuracy of its arms by round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from bench.paper_claims.metrics import mean_of, moments, scores_RK, values
from bench.paper_claims.moments import Moment
from bench.paper_claims.statistics import interquartile_mean
from bench.shared.results import Result

# Okabe and Ito 2008: distinguishable with any kind of colour vision; by their markers in grey too
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))
SHIFT = 0.015  # of the axis, so that intervals do not cover each other
WIDE = 3  # panels in a row


def draw(results: Mapping[str, Result], file: Path) -> None:
    """Draw one panel per claim."""
    n_wide, n_high = min(WIDE, len(results)), -(-len(results) // WIDE)
    figure = Figure(figsize=(max(6, 0.6 + 4.2 * n_wide), 0.9 + 4.1 * n_high), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(n_high, n_wide, sharey=True, squeeze=False).flatten()
    for axes, result in zip(panels, results.values(), strict=False):
        _panel(axes, result)
    for axes in panels[len(results) :]:
        axes.set_axis_off()
    figure.suptitle(
        "Accuracy on held-out questions\ninterquartile mean over seeds and hops, 95% bootstrap intervals",
        fontsize=12, x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(file, format="png", metadata={"Software": None})


def _panel(axes: Axes, result: Result) -> None:
    """Draw one claim."""
    for place, (arm, (colour, marker)) in enumerate(zip(result["arms"], STYLES, strict=False)):
        shift, name = place - (len(result["arms"]) - 1) / 2, result["arms"][arm]["name"]
        _accuracy(axes, result, arm, shift, {"color": colour, "marker": marker, "label": name})
        if result["show_reward"]:
            _reward(axes, result, arm, {"color": colour, "marker": marker, "label": f"{name}: reward seen"})
    n = len(result["seeds"])
    axes.set_title(f"({result['claim']}) {result['title']}, {n} seeds", loc="left", fontsize=11)
    axes.set_xlabel("million sampled tokens (0: the base)" if result.get("budget") else "round (0: the base)")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelleft=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    named = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda pair: "reward seen" in pair[1])
    handles, labels = zip(*named, strict=True)
    axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=9)


def _accuracy(axes: Axes, result: Result, arm: str, shift: float, style: dict[str, Any]) -> None:
    """Draw an arm's accuracy over time, with its intervals."""
    places = np.array([_place(result, at) for at in moments(result, arm)])
    found = [interquartile_mean(scores_RK(result, arm, at)) for at in moments(result, arm)]
    means = [interval.value for interval in found]
    spread = [[max(0.0, i.value - i.low) for i in found], [max(0.0, i.high - i.value) for i in found]]
    moved = places + shift * SHIFT * places[-1]
    axes.errorbar(moved, means, spread, lw=2, elinewidth=1.2, capsize=2, **style)


def _reward(axes: Axes, result: Result, arm: str, style: dict[str, Any]) -> None:
    """Draw what the policy's judge said of its answers, the mean over seeds: dashed and hollow. The base has none."""
    shown = moments(result, arm)[1:]
    means = [mean_of(values(result, arm, at, "reward")) for at in shown]
    places = [_place(result, at) for at in shown]
    axes.plot(places, np.array(means, dtype=float), ls="--", lw=1.5, markerfacecolor="white", **style)


def _place(result: Result, at: Moment) -> float:
    """Return a moment's place on the axis: the round, or millions of tokens."""
    return at.number / 100 * result["budget"] / 1e6 if at.of_budget else at.number
