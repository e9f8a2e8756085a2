"""What a run taught its roles: the truth by round, beside the rewards that the roles themselves saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aslfast.core import ROLES
from aslfast.errors import UserError
from aslfast.files.jsonl import read_lines

TRUTHS = {"policy": "policy_accuracy", "grm": "grm_accuracy", "solvable": "solvable_share"}

TITLE = "Truth by round (95% intervals), and the rewards the roles saw"


@dataclass(frozen=True)
class RunLog:
    """The lines of rounds.jsonl and metrics.jsonl."""

    rounds: Sequence[dict[str, Any]]
    steps: Sequence[dict[str, Any]]

    @classmethod
    def read(cls, run: str | Path) -> RunLog:
        """Raises UserError."""
        folder = Path(run)
        rounds = _lines(folder / "rounds.jsonl")
        if not rounds:
            raise UserError(f"{folder}/rounds.jsonl: no round is finished in it; train the run first")
        return cls(rounds, _lines(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else [])

    def reward(self, round_number: int, role: str) -> float | None:
        """The mean reward over the role's steps in a round."""
        seen = [s["reward"] for s in self.steps if s["round"] == round_number and s["phase"] == role]
        return sum(seen) / len(seen) if seen else None

    def hops(self) -> list[str]:
        return sorted({hops for line in self.rounds for hops in line.get("by_hops", {})}, key=int)

    def reuse(self) -> dict[str, dict[str, int]]:
        """By adapter, over all steps: tokens of the prompts, reusable and reused ones (see sampler/reuse.py)."""
        totals: dict[str, dict[str, int]] = {}
        for name, counts in (item for step in self.steps for item in step.get("prefix_cache", {}).items()):
            total = totals.setdefault(name, dict.fromkeys(counts, 0))
            for key, count in counts.items():
                total[key] += count
        return totals

    def monitored(self) -> bool:
        """Not so for a run of an earlier version."""
        return any("alarms" in line for line in self.rounds)

    def gain(self) -> float:
        """Points of policy accuracy from round 0 to the last."""
        return 100 * (self.rounds[-1]["policy_accuracy"] - self.rounds[0]["policy_accuracy"])

    def sentence(self) -> str:
        first, last = self.rounds[0], self.rounds[-1]
        return (
            f"Policy accuracy on {last['n_eval']} held-out questions: "
            f"{100 * first['policy_accuracy']:.1f}% for the base, "
            f"{100 * last['policy_accuracy']:.1f}% after round {last['round']}: {self.gain():+.1f} points."
        )

    def as_json(self) -> dict[str, Any]:
        rewards = [{role: self.reward(line["round"], role) for role in ROLES} for line in self.rounds]
        return {
            "rounds": [{**line, "rewards": seen} for line, seen in zip(self.rounds, rewards, strict=True)],
            "policy_gain_points": self.gain(),
            "prefix_cache": self.reuse(),
        }


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        return read_lines(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; name the folder of a run") from error
    except ValueError as error:
        raise UserError(f"{file}: not JSON lines ({error}); the run is damaged") from error


def interval_of(line: dict[str, Any], truth: str) -> tuple[float, float] | None:
    """The 95% interval of policy, grm or solvable in a line of rounds.jsonl."""
    interval = line.get(f"{truth}_interval")
    return (interval[0], interval[1]) if interval else None


def header(log: RunLog) -> list[str]:
    hops = [f"{'/'.join(log.hops())} hops"] if log.hops() else []
    return ["round", "policy", *hops, "GRM", "solvable", "reward: generator", "GRM", "policy", "time"]


def cells(log: RunLog, line: dict[str, Any]) -> list[str]:
    """One row: shares in percent with their intervals, then the mean rewards of the round's phases."""
    policy, grm, solvable = (_share(line, truth) for truth in TRUTHS)
    by_hops = line.get("by_hops", {})
    hops = (
        ["/".join(f"{100 * by_hops[h]['accuracy']:.0f}" if h in by_hops else "-" for h in log.hops())]
        if log.hops()
        else []
    )
    rewards = [_number(log.reward(line["round"], role)) for role in ROLES]
    return [str(line["round"]), policy, *hops, grm, solvable, *rewards, f"{line['seconds']:.0f} s"]


def _share(line: dict[str, Any], truth: str) -> str:
    value, interval = line.get(TRUTHS[truth]), interval_of(line, truth)
    if value is None:
        return "-"
    spread = f" ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})" if interval else ""
    return f"{100 * value:.1f}%{spread}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def table(log: RunLog, width: int) -> Table:
    """For a terminal of that many columns: where it is narrow the intervals stand below the shares."""
    narrow = width < 110
    made = Table(box=SIMPLE_HEAD, padding=(0, 0 if narrow else 1), pad_edge=False, title=TITLE, title_justify="left")
    for name in header(log):
        made.add_column(name.replace(": ", ":\n"), justify="right", no_wrap=True)
    for line in log.rounds:
        made.add_row(*(cell.replace(" (", "\n(") if narrow else cell for cell in cells(log, line)))
    return made


def reuse_table(log: RunLog) -> Table:
    """What each role's prompts asked for, could have spared and spared."""
    title = "Prompt tokens by role: not computed (reused), and computed before by a finished request (reusable)"
    made = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("role", "requests", "tokens", "reused", "reusable", "of which reused"):
        made.add_column(name, justify="left" if name == "role" else "right", no_wrap=True)
    for role, n in log.reuse().items():
        share = f"{100 * (1 - n['missed'] / n['reusable']):.1f}%" if n["reusable"] else "-"
        made.add_row(role, *(f"{n[key]:,}" for key in ("requests", "context", "reused", "reusable")), share)
    return made


def markdown_table(run: str | Path) -> str:
    """The same table for a README."""
    log = RunLog.read(run)
    names = header(log)
    rows = [names, ["---:"] * len(names), *(cells(log, line) for line in log.rounds)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
