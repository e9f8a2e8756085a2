"""The ledger of a run: the one place that says what is committed.

One SQLite file with one table, in which every row is a commit, and only the order of rows matters: the run as it
stands is what all its commits say, one after the other, and without the last few rows it is the run as it stood then.
A commit says which files came and went, with sizes and checksums, what changed in the loop's state, and which lines of
metrics.jsonl and rounds.jsonl belong to it. So a kill leaves the whole of a commit or nothing of it.

A rollback journal and not WAL: there is one writer and a commit a step, so WAL's readers beside the writer buy
nothing, while a folder that is copied or lies on a network would need two more files of it. synchronous=EXTRA: a
commit is on the disk, its journal's removal too, before a file that it makes superfluous is removed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aslfast.checkpoint.state import apply
from aslfast.errors import UserError
from aslfast.files.checksum import StoredFile

FORMAT, FORMER = (
    int.from_bytes(b"asl\2", "big"),
    int.from_bytes(b"asl\1", "big"),
)  # SQLite's application_id; its user_version is the number of commits
TABLE = "CREATE TABLE commits (number INTEGER PRIMARY KEY, body TEXT NOT NULL, checksum TEXT NOT NULL)"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a run's numbers depend on beside its configuration: checksums of its inputs, versions of its software."""

    inputs: dict[str, str] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Commit:
    """One row. what: run_started, step, phase or round. lines: at most one for each file of lines."""

    what: str
    state: dict[str, Any] = field(default_factory=dict)
    made: dict[str, StoredFile] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    lines: dict[str, dict[str, object]] = field(default_factory=dict)
    provenance: Provenance | None = None  # of the run: in its first commit


@dataclass
class CommittedState:
    """What commits amount to, one after the other. removable: the names that the last one dropped."""

    state: dict[str, Any] = field(default_factory=dict)
    files: dict[str, StoredFile] = field(default_factory=dict)
    lines: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    removable: tuple[str, ...] = ()

    @classmethod
    def of(cls, commits: Sequence[Commit]) -> CommittedState:
        whole = cls()
        for commit in commits:
            apply(whole.state, commit.state)
            whole.files |= commit.made
            for name in commit.dropped:
                del whole.files[name]
            for name, line in commit.lines.items():
                whole.lines.setdefault(name, []).append(line)
            whole.provenance = commit.provenance or whole.provenance
            whole.removable = commit.dropped
        return whole


class Ledger:
    """The open file. sqlite3's errors become UserError where it reads and OSError where it writes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._connection = sqlite3.connect(file, isolation_level=None)  # opens, but does not read yet
        self._count = 0

    def close(self) -> None:
        self._connection.close()

    def read(self) -> list[Commit]:
        """Return all commits, each checked against its checksum. Call it before `append`. Raises UserError."""
        try:
            return self._read()
        except sqlite3.Error as error:
            raise self._damaged(str(error)) from error

    def append(self, commit: Commit) -> None:
        """Put a commit on the disk, whole or not at all. Raises ValueError for NaN, OSError."""
        body, number = json.dumps(asdict(commit), allow_nan=False), self._count + 1
        with self._transaction(number):
            if number == 1:
                self._connection.execute("DROP TABLE IF EXISTS commits")
                self._connection.execute(TABLE)
                self._connection.execute(f"PRAGMA application_id={FORMAT}")
            self._connection.execute("INSERT INTO commits VALUES (?, ?, ?)", (number, body, _checksum(body)))
        self._count = number

    def cut(self, count: int) -> list[Commit]:
        """Forget all but the first `count` commits and return those. Raises OSError."""
        with self._transaction(count):
            self._connection.execute("DELETE FROM commits WHERE number > ?", (count,))
        return self.read()

    @contextmanager
    def _transaction(self, count: int) -> Iterator[None]:
        """Write in one transaction, after which there are `count` commits: a number kept apart, so that a loss is seen."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute(f"PRAGMA user_version={count}")
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise OSError(None, str(error)) from error

    def _read(self) -> list[Commit]:
        self._connection.execute("PRAGMA synchronous=EXTRA")
        commits = []
        for expected, (number, body, checksum) in enumerate(self._rows(), 1):
            if (number, checksum) != (expected, _checksum(body)):
                raise self._damaged(f"commit {expected} is not as it was written")
            commits.append(_commit(json.loads(body)))
        self._count = len(commits)
        if self._count != self._value("user_version"):
            raise self._damaged(f"{self._count} commits, expected {self._value('user_version')}")
        return commits

    def _rows(self) -> Iterable[tuple[int, str, str]]:
        """Return the rows; none of an empty file, into which nothing was ever committed."""
        application = self._value("application_id")  # undoes what a kill left half written: before the size is read
        if not self.file.stat().st_size:
            return []
        if application == FORMER:
            raise UserError(
                f"{self.file.parent}: made by an older version of aslfast; finish the run with that version"
            )
        if application != FORMAT:
            raise UserError(f"{self.file}: not a ledger that this aslfast reads; use the version that wrote it")
        return self._connection.execute("SELECT number, body, checksum FROM commits ORDER BY number")

    def _value(self, pragma: str) -> int:
        return self._connection.execute(f"PRAGMA {pragma}").fetchone()[0]

    def _damaged(self, reason: str) -> UserError:
        return UserError(
            f"{self.file}: the ledger is damaged ({reason}); put back a copy of it, or start a new run from what is in "
            f"{self.file.parent}/adapters"
        )


def _checksum(body: str) -> str:
    return blake2b(f"{body}".encode(), digest_size=16).hexdigest()  # in a damaged row it may be no text


def _commit(data: dict[str, Any]) -> Commit:
    made = {name: StoredFile(**stored) for name, stored in data["made"].items()}
    provenance = Provenance(**data["provenance"]) if data["provenance"] else None
    return Commit(**{**data, "made": made, "dropped": tuple(data["dropped"]), "provenance": provenance})
