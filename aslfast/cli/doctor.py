"""`aslfast doctor`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from aslfast.cli.progress import quiet_libraries, stderr, stdout
from aslfast.errors import UserError
from aslfast.preflight.machine import Line, check_machine

COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}
KINDS = ("local", "sglang")


def doctor(kind: str | None, model: str, as_json: bool) -> bool:
    """Checks, prints, and says whether no line has failed. Raises UserError for an unknown sampler."""
    if kind is not None and kind not in KINDS:
        raise UserError(f"--sampler {kind}: use one of {', '.join(KINDS)}")
    quiet_libraries()
    lines, result = check_machine(), {}
    if kind:
        found, proof = _sampler_lines(kind, model, as_json)
        lines += found
        result = {"sampler": proof}
    ok = all(line.ok for line in lines)
    if as_json:
        rows = [{"name": line.name, "ok": line.ok, "detail": line.detail, "remedy": line.remedy} for line in lines]
        print(json.dumps({"ok": ok, "lines": rows, **result}))
    else:
        print_lines(lines)
    return ok


def _sampler_lines(kind: Any, model: str, quiet: bool) -> tuple[list[Line], dict[str, Any] | None]:
    if not quiet:
        stderr().print(f"doctor: opening the {kind} sampler over {model}", markup=False)
    try:
        from aslfast.preflight.sampler_check import check_sampler
    except Exception as error:  # it needs all that the lines above report on
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return [Line("sampler", "failed", why, "mend the failed lines above first")], None
    lines, proof = check_sampler(kind, model)
    return lines, proof.as_json() if proof else None


def print_lines(lines: Sequence[Line]) -> None:
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("check", "state", "found"):
        made.add_column(name, no_wrap=name != "found")
    for line in lines:
        found = Text(line.detail)
        if line.remedy:
            found.append(f"\n-> {line.remedy}", style=COLOURS[line.state])
        made.add_row(line.name, Text(line.state, style=COLOURS[line.state]), found)
    stdout().print(made)
