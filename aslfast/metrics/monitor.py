"""The monitor in a run: the health and the alarms of each round, and the stop for an alarm. docs/monitor.md.

It works from the lines of a run alone, so that a resumed run says what a run without a kill would have said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from aslfast.config.schema import MonitorConfig
from aslfast.errors import UserError
from aslfast.metrics.alarms import Alarm, alarms
from aslfast.metrics.health import round_health
from aslfast.metrics.run_log import Line


def monitor_round(
    now: Line, steps: Sequence[Line], before: Sequence[Line], pool_size: int, config: MonitorConfig
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Return the health of a round and its alarms, for its line of rounds.jsonl.

    now: the round's scores, as its line has them. steps, before: the lines of the run's steps and rounds so far.
    """
    pool_size_before = before[-1].get("pool", 0) if before else 0
    health = round_health([step for step in steps if step["round"] == now["round"]], pool_size, pool_size_before)
    return health, [asdict(alarm) for alarm in alarms([*before, {**now, **health}], config)]


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
