"""The question pool of a run, from its ledger, which is opened to be read alone: a run may be writing it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aslfast.checkpoint.commits import Provenance
from aslfast.checkpoint.run_dir import LEDGER
from aslfast.checkpoint.state import apply_changes

_COMMITS = "SELECT number, body ->> '$.state', body ->> '$.provenance' FROM commits WHERE number > ? ORDER BY number"


class LedgerView:
    """What the page needs of a ledger; `read` adds the commits that came since. Without a ledger it stays empty."""

    def __init__(self, run: Path) -> None:
        self._file = run / LEDGER
        self._seen = 0
        self._state: dict[str, object] = {}
        self.provenance = Provenance()

    def read(self) -> None:
        """Read what is new. A ledger that is locked or damaged leaves the view as it was: a resume names the damage."""
        if not self._file.exists():
            return
        try:
            connection = sqlite3.connect(f"{self._file.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
            try:
                for number, state, provenance in connection.execute(_COMMITS, (self._seen,)):
                    changed = json.loads(state)
                    apply_changes(self._state, {"pool": changed["pool"]} if "pool" in changed else {})
                    if provenance:
                        self.provenance = Provenance(**json.loads(provenance))
                    self._seen = number
            finally:
                connection.close()
        except (sqlite3.Error, ValueError, TypeError):
            return

    def questions(self) -> list[dict[str, object]]:
        """Return the questions that were accepted so far, with the attempts at them and the verdicts on those."""
        pool = self._state.get("pool")
        return [_question(each) for each in pool.values()] if isinstance(pool, Mapping) else []


def _question(stored: Mapping[str, Any]) -> dict[str, object]:
    attempts = [[attempt["answer"], attempt["verdicts"]] for attempt in stored.get("attempts", ())]
    keys = ("id", "text", "references", "hops", "round")
    return {**{key: stored.get(key) for key in keys}, "attempts": attempts}
