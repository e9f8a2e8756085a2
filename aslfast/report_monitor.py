"""The monitor in a report: its figures by round, and its alarms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aslfast.core import ROLES
from aslfast.monitor import alarms_of
from aslfast.report import RunLog

TITLE = "Monitor: the judge on the policy's held-out answers, what the roles do, and alarms (docs/monitor.md)"
COLUMNS = {  # "training": the same gap on the answers that the policy was paid for
    "passed": "judge_share", "right": "truth_share", "gap": "judge_truth_gap", "training": "true_gap",
    "agreement": "judge_agreement", "bias": "verdict_bias", "diversity": "question_diversity",
}  # fmt: skip
SIGNED = {"gap", "training", "bias"}
BY_ROLE = {"tokens": ("tokens", ".0f"), "entropy": ("entropy", ".3f"), "repeated": ("repeated_queries", ".2f")}


def monitor_table(log: RunLog) -> Table:
    """By role in the order generator/GRM/policy."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=TITLE, title_justify="left")
    for name in ("round", *COLUMNS, "new", *BY_ROLE, "alarms"):
        made.add_column(name, justify="right")
    for line in log.rounds:
        shares = (_number(line.get(key), "+.2f" if name in SIGNED else ".2f") for name, key in COLUMNS.items())
        new, count = _number(line.get("new_questions"), "d"), str(len(line.get("alarms", ())) or "-")
        made.add_row(str(line["round"]), *shares, new, *(_by_role(line, *of) for of in BY_ROLE.values()), count)
    return made


def alarm_lines(log: RunLog) -> list[str]:
    return [text for line in log.rounds for text in alarms_of(line)]


def _by_role(line: Mapping[str, Any], key: str, form: str) -> str:
    figures = line.get("by_role")
    return "/".join(_number(figures.get(role, {}).get(key), form) for role in ROLES) if figures else "-"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
