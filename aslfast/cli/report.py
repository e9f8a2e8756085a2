"""The work of `aslfast report`, also the end of `aslfast train`: a run's tables on stdout, its plot into its folder."""

from __future__ import annotations

from pathlib import Path

from aslfast.cli.options import print_json
from aslfast.cli.progress import stderr, stdout
from aslfast.errors import UserError
from aslfast.metrics.alarm_tables import alarm_lines, monitor_tables
from aslfast.metrics.plots import draw
from aslfast.metrics.run_log import RunLog
from aslfast.metrics.tables import prefix_cache_table, table, time_table


def print_report(run: Path, as_json: bool) -> None:
    """Print the tables of a run, or one JSON object, and draw its plot where the folder can be written.

    Raise UserError.
    """
    log = RunLog.read(run)
    plot = _drawn(run)
    if as_json:
        print_json({"run": str(run), "curves": plot and str(plot), **log.as_json()})
        return
    console = stdout()
    console.print(table(log, console.width))
    if log.prefix_cache():
        console.print(prefix_cache_table(log))
    if log.seconds_by_phase():
        console.print(time_table(log))
    if log.has_alarms():
        console.print(*monitor_tables(log))
    for text in alarm_lines(log):
        console.print(text, markup=False, style="bold red", soft_wrap=True)
    print(log.sentence() + (f"\nCurves: {plot}" if plot else ""))


def _drawn(run: Path) -> Path | None:
    """Return the plot; None, said on stderr, where it cannot be written: the tables matter more."""
    try:
        return draw(run)
    except UserError as error:
        stderr().print(f"aslfast: {error}", markup=False)
        return None
