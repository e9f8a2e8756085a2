"""The ledger of a run: the single source of truth for what is committed.

One SQLite file with one table. Every row is a commit, and only the order of the rows matters: the run's state is the
result of all commits in order, and without the last few rows it is the run's state at that time. A commit lists the
files that were made and dropped, with sizes and checksums, what changed in the training state, and its lines of
metrics.jsonl and rounds.jsonl. So a kill leaves a whole commit or none of it.

A rollback journal, not WAL: there is one writer and one commit a step, so concurrent readers gain nothing, while a
folder that is copied or on a network would need two more files. synchronous=EXTRA: a commit, and the removal of its
journal, is on the disk before a file that the commit makes obsolete is removed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aslfast.checkpoint.commits import Commit, Provenance
from aslfast.errors import UserError
from aslfast.files.checksum import StoredFile

# SQLite's application_id identifies the format; its user_version is the number of commits
FORMAT = int.from_bytes(b"asl\2", "big")
PREVIOUS_FORMAT = int.from_bytes(b"asl\1", "big")
TABLE = "CREATE TABLE commits (number INTEGER PRIMARY KEY, body TEXT NOT NULL, checksum TEXT NOT NULL)"


class Ledger:
    """The open file. An error of sqlite3 becomes a UserError when reading, an OSError when writing."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._connection = sqlite3.connect(file, isolation_level=None)  # opens, but does not read yet
        self._count = 0

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def read(self) -> list[Commit]:
        """Return all commits, each checked against its checksum. Call it before `append`. Raise UserError."""
        try:
            return self._read()
        except sqlite3.Error as error:
            raise self._damaged(str(error)) from error

    def append(self, commit: Commit) -> None:
        """Write a commit to the disk, all or nothing. Raise ValueError for NaN, OSError."""
        body, number = json.dumps(asdict(commit), allow_nan=False), self._count + 1
        with self._transaction(number):
            if number == 1:
                self._connection.execute("DROP TABLE IF EXISTS commits")
                self._connection.execute(TABLE)
                self._connection.execute(f"PRAGMA application_id={FORMAT}")
            self._connection.execute("INSERT INTO commits VALUES (?, ?, ?)", (number, body, _checksum(body)))
        self._count = number

    def truncate(self, count: int) -> list[Commit]:
        """Remove all but the first `count` commits and return those. Raise OSError."""
        with self._transaction(count):
            self._connection.execute("DELETE FROM commits WHERE number > ?", (count,))
        return self.read()

    @contextmanager
    def _transaction(self, count: int) -> Iterator[None]:
        """Write in one transaction that leaves `count` commits; the number is stored, so that a loss is detected."""
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
        application = self._value("application_id")  # rolls back what a kill left: before the size is read
        if not self.file.stat().st_size:
            return []
        if application == PREVIOUS_FORMAT:
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
            f"{self.file}: the ledger is damaged ({reason}); restore a copy of it, or start a new run from what is in "
            f"{self.file.parent}/adapters"
        )


def _checksum(body: str) -> str:
    return blake2b(f"{body}".encode(), digest_size=16).hexdigest()  # in a damaged row it may be no text


def _commit(data: dict[str, Any]) -> Commit:
    """Return the commit that JSON data stands for."""
    made = {name: StoredFile(**stored) for name, stored in data["made"].items()}
    provenance = Provenance(**data["provenance"]) if data["provenance"] else None
    return Commit(**{**data, "made": made, "dropped": tuple(data["dropped"]), "provenance": provenance})
