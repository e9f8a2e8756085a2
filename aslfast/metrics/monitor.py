"""The monitor in a run: a round's record with the health of its steps and its alarms, and the stop for an alarm.

It works from the lines of a run alone, so that a resumed run says what a run without a kill would have said.
docs/monitor.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aslfast.config.schema import MonitorConfig
from aslfast.errors import UserError
from aslfast.files.jsonl import read_lines
from aslfast.metrics.alarms import Alarm, alarms
from aslfast.metrics.health import round_health
from aslfast.metrics.run_log import Line


def monitored(
    line: Line, before: Sequence[Line], steps: Sequence[Line], pool_size: int, config: MonitorConfig
) -> dict[str, Any]:
    """Return a round's line with the health of its steps and its alarms.

    before: the lines of the rounds before it. steps: the lines of metrics.jsonl, of all rounds or of this one.
    """
    pool_before = before[-1].get("pool", 0) if before else 0
    own_steps = [step for step in steps if step["round"] == line["round"]]
    now = {**line, **round_health(own_steps, pool_size, pool_before)}
    return {**now, "alarms": [asdict(alarm) for alarm in alarms([*before, now], config)]}


def monitored_run(run: Path, line: Line, pool_size: int, config: MonitorConfig) -> dict[str, Any]:
    """Return `monitored` of a round's line; the folder `run` holds the lines before it. A new run has neither file."""
    files = (run / name for name in ("rounds.jsonl", "metrics.jsonl"))
    before, steps = (read_lines(file) if file.exists() else [] for file in files)
    return monitored(line, before, steps, pool_size, config)


def alarm_texts(line: Line) -> list[str]:
    """Return the alarms in a line of rounds.jsonl, a sentence each."""
    return [f"round {line['round']}: alarm: {Alarm(**values)}" for values in line.get("alarms", ())]


def stop_for_alarms(line: Line, config: MonitorConfig, resume_command: str) -> None:
    """Raise UserError where `monitor.stop` ends the run for an alarm of this round."""
    if config.stop and line["alarms"]:
        names = "; ".join(str(Alarm(**{**values, "meaning": ""})).rstrip(": ") for values in line["alarms"])
        raise UserError(
            f"monitor.stop: round {line['round']} ended the run with an alarm ({names}); docs/monitor.md says what to "
            f"do, and a new run can start from its adapters; to go on all the same: {resume_command}"
        )
