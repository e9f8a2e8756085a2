"""The work of `aslfast doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from aslfast.cli.options import print_json
from aslfast.cli.progress import quiet_libraries, stderr, stdout
from aslfast.errors import UserError
from aslfast.trainer.preflight.check import CheckResult, one_line_error
from aslfast.trainer.preflight.machine import check_machine

COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(kind: str | None, model: str, as_json: bool) -> bool:
    """Run the checks, print them, and return whether none has failed. Raise UserError for an unknown sampler."""
    if kind not in (None, "local", "sglang"):
        raise UserError(f"--sampler {kind}: use one of local, sglang")
    quiet_libraries()
    results, report = check_machine(), {}
    if kind:
        if not as_json:
            stderr().print(f"doctor: opening the {kind} sampler over {model}", markup=False)
        found, sampler_report = _check_sampler(kind, model)
        results += found
        report = {"sampler": sampler_report}
    ok = all(result.ok for result in results)
    if as_json:
        lines = [{"name": r.name, "ok": r.ok, "detail": r.detail, "suggestion": r.suggestion} for r in results]
        print_json({"ok": ok, "lines": lines, **report})
    else:
        print_results(results)
    return ok


def _check_sampler(kind: str, model: str) -> tuple[list[CheckResult], dict[str, object] | None]:
    try:
        from aslfast.trainer.preflight.sampler_check import check_sampler
    except Exception as error:  # it needs all that the checks above report on
        return [CheckResult("sampler", "failed", one_line_error(error), "repair the failed lines above first")], None
    results, report = check_sampler("local" if kind == "local" else "sglang", model)
    return results, report.as_json() if report else None


def print_results(results: Sequence[CheckResult]) -> None:
    """Print the checks as a table, with what to do about those that are not ok."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("check", "state", "found"):
        made.add_column(name, no_wrap=name != "found")
    for result in results:
        found = Text(result.detail)
        if result.suggestion:
            found.append(f"\n-> {result.suggestion}", style=COLOURS[result.state])
        made.add_row(result.name, Text(result.state, style=COLOURS[result.state]), found)
    stdout().print(made)
