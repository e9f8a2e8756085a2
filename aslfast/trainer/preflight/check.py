"""One check of the doctor: its result, and running it where anything may be broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found. A warning is ok, and has a suggestion."""

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    suggestion: str = ""

    @property
    def ok(self) -> bool:
        """Whether the check has not failed."""
        return self.state != "failed"


def run_check(name: str, check: Callable[[], CheckResult], suggestion: str) -> CheckResult:
    """Return the check's result; a failed one, with this suggestion, where the check raises anything."""
    try:
        return check()
    except Exception as error:  # whatever is broken, the doctor goes on
        return CheckResult(name, "failed", one_line_error(error), suggestion)


def one_line_error(error: Exception) -> str:
    """Return an exception's type and message, on one line, shortened."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
