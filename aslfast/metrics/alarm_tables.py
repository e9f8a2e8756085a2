"""The monitor in a report: its metrics by round, and its alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aslfast.config.roles import ROLES
from aslfast.metrics.monitor import alarm_texts
from aslfast.metrics.run_log import RunLog

JUDGE_TITLE = "Monitor: the judge on the policy's held-out answers, and the questions"
JUDGE = {  # column -> key and format; "training": the same gap on the answers that the policy was rewarded for
    "passed": ("judge_pass_rate", ".2f"), "right": ("judge_probe_accuracy", ".2f"), "gap": ("judge_truth_gap", "+.2f"),
    "training": ("true_gap", "+.2f"), "agreement": ("judge_agreement", ".2f"), "bias": ("verdict_bias", "+.2f"),
    "diversity": ("question_diversity", ".2f"), "new": ("new_questions", "d"),
}  # fmt: skip
ROLE_TITLE = "Monitor: generator/GRM/policy"
BY_ROLE = {
    "tokens": ("tokens", ".0f"), "entropy": ("entropy", ".3f"), "finished": ("finished", ".2f"),
    "repeated queries": ("repeated_queries", ".2f"),
}  # fmt: skip


def monitor_tables(log: RunLog) -> list[Table]:
    """Return the table of judge and questions and, where a round had steps, that of the roles' behaviour."""
    judge, behaviour = _table(JUDGE_TITLE, [*JUDGE, "alarms"]), _table(ROLE_TITLE, list(BY_ROLE))
    for line in log.rounds:
        cells = [_number(line.get(key), form) for key, form in JUDGE.values()]
        judge.add_row(str(line["round"]), *cells, str(len(line.get("alarms", ())) or "-"))
        if by_role := line.get("by_role"):
            behaviour.add_row(str(line["round"]), *(_by_role(by_role, *of) for of in BY_ROLE.values()))
    return [judge, behaviour] if behaviour.row_count else [judge]


def alarm_lines(log: RunLog) -> list[str]:
    """Return all alarms of a run, a sentence each."""
    return [text for line in log.rounds for text in alarm_texts(line)]


def _table(title: str, names: Sequence[str]) -> Table:
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    for name in ("round", *names):
        made.add_column(name, justify="right", no_wrap=True)
    return made


def _by_role(by_role: Mapping[str, Mapping[str, float | None]], key: str, form: str) -> str:
    return "/".join(_number(by_role.get(role, {}).get(key), form) for role in ROLES)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
