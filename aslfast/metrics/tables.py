"""The tables of a run's report: ground truth by round with the rewards that the roles saw, and reused prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aslfast.clock import PARTS
from aslfast.metrics.run_log import Line, RunLog

TRUTHS = {"policy": "policy_accuracy", "grm": "grm_accuracy", "solvable": "solvable_share"}
TITLE = "Ground truth by round (95% intervals), and the rewards the roles saw"


def interval_of(line: Line, truth: str) -> tuple[float, float] | None:
    """Return the 95% interval of policy, grm or solvable in a line of rounds.jsonl."""
    interval = line.get(f"{truth}_interval")
    return (interval[0], interval[1]) if interval else None


def header(log: RunLog) -> list[str]:
    """Return the names of the columns."""
    hops = [f"{'/'.join(log.hops())} hops"] if log.hops() else []
    titles = {"policy": "policy", "grm": "GRM", "solvable": "solvable"}
    policy, *others = [titles[truth] for truth in _truths(log)]
    first, *more = ["GRM" if role == "grm" else role for role in log.roles]
    return ["round", policy, *hops, *others, f"reward: {first}", *more, "time"]


def cells(log: RunLog, line: Line) -> list[str]:
    """Return one row: fractions in percent with their intervals, then the mean rewards of the round's phases."""
    policy, *others = (_percent(line, truth) for truth in _truths(log))
    by_hops, hops = line.get("by_hops", {}), log.hops()
    accuracies = ["/".join(f"{100 * by_hops[h]['accuracy']:.0f}" if h in by_hops else "-" for h in hops)]
    rewards = [_number(log.reward(line["round"], role)) for role in log.roles]
    columns = [str(line["round"]), policy, *(accuracies if hops else ()), *others]
    return [*columns, *rewards, f"{line['seconds']:.0f} s"]


def _truths(log: RunLog) -> list[str]:
    """Return what is compared with the ground truth; of roles of one's own where anything is."""
    seen = {truth for truth, key in TRUTHS.items() if any(line.get(key) is not None for line in log.rounds)}
    return [truth for truth in TRUTHS if truth == "policy" or truth in seen or not log.has_own_roles]


def _percent(line: Line, truth: str) -> str:
    value, interval = line.get(TRUTHS[truth]), interval_of(line, truth)
    if value is None:
        return "-"
    spread = f" ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})" if interval else ""
    return f"{100 * value:.1f}%{spread}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def table(log: RunLog, width: int) -> Table:
    """Return the table of a run for a terminal of `width` columns: in a narrow one intervals go to a second line."""
    narrow = width < 110
    made = Table(box=SIMPLE_HEAD, padding=(0, 0 if narrow else 1), pad_edge=False, title=TITLE, title_justify="left")
    names = header(log)
    for place, name in enumerate(names, 1 - len(names)):  # a role's name may be long: it folds, numbers are not cut
        role = -len(log.roles) <= place < 0
        made.add_column(
            name.replace(": ", ":\n"), justify="right", no_wrap=not role, min_width=5 * role, overflow="fold"
        )
    for line in log.rounds:
        made.add_row(*(cell.replace(" (", "\n(") if narrow else cell for cell in cells(log, line)))
    return made


def prefix_cache_table(log: RunLog) -> Table:
    """Return the table of prompt tokens by adapter: all, reused, and those that could have been."""
    title = "Prompt tokens by adapter: not computed (reused), and computed before by a finished request (reusable)"
    made = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("adapter", "requests", "tokens", "reused", "reusable", "of which reused"):
        made.add_column(name, justify="left" if name == "adapter" else "right", no_wrap=True)
    for adapter, n in log.prefix_cache().items():
        fraction = f"{100 * (1 - n['missed'] / n['reusable']):.1f}%" if n["reusable"] else "-"
        made.add_row(adapter, *(f"{n[key]:,}" for key in ("requests", "context", "reused", "reusable")), fraction)
    return made


def time_table(log: RunLog) -> Table:
    """Return the table of where the time went, by part and phase, and of what the learner and the sampler had to do."""
    phases = log.seconds_by_phase()
    made = Table(box=SIMPLE_HEAD, pad_edge=False, title="Where the time went: seconds by part", title_justify="left")
    for name in ("part", *("GRM" if name == "grm" else name for name in phases), "all", "share"):
        made.add_column(name, justify="left" if name == "part" else "right", overflow="fold")
    whole = sum(seconds for own in phases.values() for seconds in own.values())
    for part in (part for part in PARTS if any(part in own for own in phases.values())):
        seconds = [own.get(part, 0.0) for own in phases.values()]
        made.add_row(part, *(f"{s:.1f}" for s in (*seconds, sum(seconds))), f"{100 * sum(seconds) / whole:.1f}%")
    made.add_section()
    for title, shown in _work(log, list(phases)).items():
        made.add_row(title, *shown)
    return made


def _work(log: RunLog, phases: Sequence[str]) -> dict[str, list[str]]:
    mfu = [log.learner_utilization(phase) for phase in phases]
    most = [log.most(phase, "in_flight", "requests") for phase in phases]
    tokens = [log.most(phase, "in_flight", "tokens") for phase in phases]
    memory = [log.most(phase, "peak_memory_gb") for phase in phases]
    return {
        "learner's MFU": _shown(mfu, "{:.0%}"),
        "requests at once": _shown(most, "{:,.0f}"),
        "their tokens": _shown(tokens, "{:,.0f}"),
        "peak memory, GB": _shown(memory, "{:.1f}"),
    }


def _shown(values: Sequence[float | None], form: str) -> list[str]:
    return ["-" if value is None else form.format(value) for value in values]


def markdown_table(run: str | Path) -> str:
    """Return the table of a run in Markdown, for a README."""
    log = RunLog.read(run)
    names = header(log)
    rows = [names, ["---:"] * len(names), *(cells(log, line) for line in log.rounds)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
