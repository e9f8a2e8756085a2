"""The question pool of a run, from its ledger, which is opened to be read alone: a run may be writing it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import msgspec

from aslfast.checkpoint.commits import Provenance
from aslfast.checkpoint.run_dir import LEDGER
from aslfast.checkpoint.state import apply_changes
from aslfast.core import Question

_COMMITS = "SELECT number, body ->> '$.state', body ->> '$.provenance' FROM commits WHERE number > ? ORDER BY number"


class LedgerView:
    """What the page needs of a ledger; `read` adds the commits that came since. Without a ledger it stays empty."""

    def __init__(self, run: Path) -> None:
        self._file = run / LEDGER
        self._seen = 0
        self._state: dict[str, object] = {}
        self.provenance = Provenance()
        self.problem = ""  # why there may be no questions

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
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            self.problem = f"{LEDGER} cannot be read ({error}): its questions and provenance are not shown"
        else:
            self.problem = ""

    def questions(self) -> list[dict[str, object]]:
        """Return the questions that were accepted so far, with the attempts at them and the verdicts on those."""
        pool = self._state.get("pool")
        try:
            return [_shown(msgspec.convert(each, Question)) for each in pool.values()] if isinstance(pool, dict) else []
        except msgspec.ValidationError as error:
            self.problem = f"{LEDGER}: its question pool is damaged ({error})"
            return []


def _shown(question: Question) -> dict[str, object]:
    attempts = [(attempt.answer, attempt.verdicts) for attempt in question.attempts]
    return {
        "id": question.id, "text": question.text, "references": question.references, "hops": question.hops,
        "round": question.round, "attempts": attempts,
    }  # fmt: skip
