"""When a tool that gives no answer is gone: each failure costs its own trajectories, too many in a row the run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from aslfast.errors import UserError

MIN_FAILURES = 3  # in a row before a tool counts as gone; fewer may be caused by what was asked


@dataclass(eq=False)
class ToolFailures:
    """Counts the failures of one tool since its last answer; `units` are what fails: batches or calls.

    Once at least MIN_FAILURES in a row, over at least give_up_after_s, have failed, it is gone.
    """

    tool: str
    units: str
    give_up_after_s: float
    _count: int = field(default=0, init=False)
    _since: float = field(default=0.0, init=False)

    def succeeded(self) -> None:
        """Forget the failures before."""
        self._count = 0

    def failed(self, started: float, error: BaseException) -> UserError | None:
        """Count what was started at this time and failed; return the error that ends the run if the tool is gone."""
        self._since = self._since if self._count else started
        self._count += 1
        failing_s = time.monotonic() - self._since
        if self._count < MIN_FAILURES or failing_s < self.give_up_after_s:
            return None
        failures = f"{self._count} consecutive {self.units} failed, the last one with: {error}"
        return UserError(f"{self.tool} has answered no call for {failing_s:.0f} s ({failures})")
