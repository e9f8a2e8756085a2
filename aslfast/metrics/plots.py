"""The plot of a run: ground truth by round on the left, the roles' rewards and accuracy by hops on the right."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from aslfast.errors import UserError
from aslfast.files.atomic import atomic_file
from aslfast.metrics.run_log import RunLog, by_role_of
from aslfast.metrics.tables import TRUTHS, interval_of
from aslfast.prompts.builder import SECOND_JUDGE

NAMES = {"policy": "policy: right answers", "grm": "GRM: right verdicts", "solvable": "generator: solvable questions"}
# Okabe and Ito 2008: distinct with any kind of colour vision; the markers differ in grey too
COLOURS = {
    "policy": "#0072B2", "grm": "#D55E00", SECOND_JUDGE: "#D55E00", "solvable": "#009E73", "generator": "#009E73",
}  # fmt: skip
OTHERS = ("#7F3C8D", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#444444")  # roles of one's own
ALARM = "#B00020"
HOP_COLOURS = ("#0072B2", "#56B4E9", "#CC79A7", "#E69F00")
MARKERS = "os^Dv"
SMOOTH = 5  # steps of the running mean


def draw(run: str | Path) -> Path:
    """Write curves.png (1200 x 700 pixels) into the run, complete or not at all; return its path. Raise UserError."""
    log, folder = RunLog.read(run), Path(run)
    figure = Figure(figsize=(12, 7), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
    figure.suptitle(log.sentence(), fontsize=12.5, fontweight="bold", x=0.012, ha="left")
    _plot_truth(figure.add_subplot(grid[:, 0]), log)
    _plot_hops(figure.add_subplot(grid[0, 1]), log)
    _plot_rewards(figure.add_subplot(grid[1, 1]), log)
    try:
        with atomic_file(folder / "curves.png") as partial:
            figure.savefig(partial, format="png", metadata={"Software": None})
    except OSError as error:
        raise UserError(
            f"{folder}/curves.png: cannot be written ({error.strerror}); free the space, then: aslfast report {folder}"
        ) from error
    return folder / "curves.png"


def _plot_truth(axes: Axes, log: RunLog) -> None:
    """Plot each role's score against the ground truth by round, and mark the rounds with an alarm."""
    for marker, (truth, key) in zip(MARKERS, TRUTHS.items(), strict=False):
        lines = [line for line in log.rounds if line.get(key) is not None]
        if not lines:
            continue
        x = [line["round"] for line in lines]
        axes.plot(x, [line[key] for line in lines], marker=marker, color=COLOURS[truth], label=NAMES[truth], lw=2)
        bands = [interval_of(line, truth) or (line[key], line[key]) for line in lines]
        low, high = map(list, zip(*bands, strict=True))
        axes.fill_between(x, low, high, color=COLOURS[truth], alpha=0.15, lw=0)
    for number in (line["round"] for line in log.rounds if line.get("alarms")):
        axes.axvline(number, color=ALARM, lw=1.5, ls=":")
        axes.annotate("alarm", (number, 1), xytext=(3, -10), textcoords="offset points", color=ALARM, fontsize=9)
    _percent_by_round(axes, "Ground truth on held-out tasks, with 95% intervals")
    _legend_below(axes, -0.075)


def _plot_hops(axes: Axes, log: RunLog) -> None:
    for marker, colour, hops in zip(MARKERS, HOP_COLOURS, log.hops(), strict=False):
        lines = [line for line in log.rounds if hops in line.get("by_hops", {})]
        values = [line["by_hops"][hops]["accuracy"] for line in lines]
        rounds, label = [line["round"] for line in lines], f"{hops} hop{'s' * (hops != '1')}"
        axes.plot(rounds, values, marker=marker, color=colour, label=label, lw=2)
    _percent_by_round(axes, "Policy accuracy by hops of the question")
    _legend_below(axes)


def _percent_by_round(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("round (0: the base)")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _frame(axes)


def _plot_rewards(axes: Axes, log: RunLog) -> None:
    """Plot each role's reward by optimizer step of the run: thin as it is, thick its running mean within a phase."""
    phases: dict[tuple[int, str, str], list[tuple[int, float]]] = defaultdict(list)
    for number, step in enumerate(log.steps, 1):
        for role, seen in by_role_of(step).items():
            phases[step["round"], step["phase"], role].append((number, seen["reward"]))
    colours, named = _colours([role for _, _, role in phases]), set()
    for (_, _, name), points in phases.items():
        x, y = zip(*points, strict=True)
        label = None if name in named else {"grm": "GRM", SECOND_JUDGE: "second GRM"}.get(name, name)
        named.add(name)
        dashes = "--" if name == SECOND_JUDGE else "-"
        axes.plot(x, y, color=colours[name], lw=0.8, alpha=0.4)
        axes.plot(x, _running_mean(y), color=colours[name], lw=2, ls=dashes, label=label)
    axes.set_title("Reward that the roles saw, by optimizer step", loc="left", fontsize=11)
    axes.set_xlabel("optimizer step of the run")
    axes.set_ylabel("mean reward")
    axes.set_ylim(bottom=1.05 * min([0.0, *(reward for points in phases.values() for _, reward in points)]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _frame(axes)
    _legend_below(axes)


def _colours(roles: Sequence[str]) -> dict[str, str]:
    """Return a colour for each role: those of one's own take what the shipped ones among them leave, in turn."""
    given = {role: COLOURS[role] for role in roles if role in COLOURS}
    left = itertools.cycle([colour for colour in OTHERS if colour not in given.values()])
    return {role: given.get(role) or next(left) for role in dict.fromkeys(roles)}


def _running_mean(values: tuple[float, ...]) -> list[float]:
    return [sum(values[max(0, i + 1 - SMOOTH) : i + 1]) / min(i + 1, SMOOTH) for i in range(len(values))]


def _frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)


def _legend_below(axes: Axes, y: float = -0.17) -> None:
    """Put the legend below the axes, where it covers no data."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, y), ncols=4, frameon=False, fontsize=9, columnspacing=1.2)
