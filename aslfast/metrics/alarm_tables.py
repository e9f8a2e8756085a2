"""The monitor in a report: its metrics by round, and its alarms."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aslfast.metrics.monitor import alarm_texts
from aslfast.metrics.run_log import RunLog

JUDGE_TITLE = "Monitor: the judge on the policy's held-out answers, and the questions"
JUDGE = {  # column -> key and format; "training": the same gap on the answers that the policy was rewarded for
    "passed": ("judge_pass_rate", ".2f"), "right": ("judge_probe_accuracy", ".2f"), "gap": ("judge_truth_gap", "+.2f"),
    "training": ("true_gap", "+.2f"), "agreement": ("judge_agreement", ".2f"), "bias": ("verdict_bias", "+.2f"),
    "diversity": ("question_diversity", ".2f"), "new": ("new_questions", "d"),
}  # fmt: skip
QUESTIONS = ("diversity", "new")
QUESTION_TITLE = "Monitor: the questions"
ROLE_TITLE = "Monitor: what the roles do; equal groups teach nothing"
BY_ROLE = {
    "tokens": ("tokens", ".0f"), "entropy": ("entropy", ".3f"), "finished": ("finished", ".2f"),
    "repeated queries": ("repeated_queries", ".2f"),
}  # fmt: skip
EQUAL = "zero_variance_groups"


def monitor_tables(log: RunLog) -> list[Table]:
    """Return the table of judge and questions and, where a round had steps, that of the roles' behaviour."""
    return [made for made in (_judge_table(log), _role_table(log)) if made.row_count]


def _judge_table(log: RunLog) -> Table:
    """Return the table of judge and questions; of roles of one's own with the columns alone that say anything."""
    said = {name for name, (key, _) in JUDGE.items() if any(line.get(key) not in (None, 0) for line in log.rounds)}
    columns = {name: of for name, of in JUDGE.items() if name in said or not log.has_own_roles}
    made = _table(JUDGE_TITLE if set(columns) - set(QUESTIONS) else QUESTION_TITLE, [*columns, "alarms"])
    for line in log.rounds if columns else ():
        cells = [_number(line.get(key), form) for key, form in columns.values()]
        made.add_row(str(line["round"]), *cells, str(len(line.get("alarms", ())) or "-"))
    return made


def _role_table(log: RunLog) -> Table:
    made = _table(ROLE_TITLE, ["role", "equal groups", *BY_ROLE])
    made.columns[1].justify, made.columns[1].no_wrap, made.columns[1].overflow = "left", False, "fold"
    for line in log.rounds:
        for role, metrics in line.get("by_role", {}).items():
            cells = [_number(metrics.get(key), form) for key, form in BY_ROLE.values()]
            made.add_row(str(line["round"]), role, _number(log.mean(line["round"], role, EQUAL), ".2f"), *cells)
    return made


def alarm_lines(log: RunLog) -> list[str]:
    """Return all alarms of a run, a sentence each."""
    return [text for line in log.rounds for text in alarm_texts(line)]


def _table(title: str, names: Sequence[str]) -> Table:
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    for name in ("round", *names):
        made.add_column(name, justify="right", no_wrap=True)
    return made


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
