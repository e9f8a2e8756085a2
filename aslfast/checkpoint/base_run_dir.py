"""What training needs of a run's folder, whether or not this rank writes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from aslfast.checkpoint.commits import CommittedState, PendingCommit, Provenance
from aslfast.checkpoint.state import TrainState

R = TypeVar("R", bound="BaseRunDir")


class BaseRunDir(ABC):
    """A run's folder: `RunDir` on rank 0, `NullRunDir` on every other rank. A context manager that closes it.

    files, provenance: as committed. history: the lines committed so far, by file. followers: are
    called with the file and the line of each that is committed. evaluated: whether the evaluation of
    round 0 is committed. warnings: for the user, about a resumed run. new_provenance: for the next commit, if any.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.new_provenance: Provenance | None = None
        self.followers: list[Callable[[str, dict[str, object]], None]] = []
        self._set_committed(CommittedState(), evaluated=False)

    def _set_committed(self, committed: CommittedState, evaluated: bool) -> None:
        self.files, self.provenance, self.history = committed.files, committed.provenance, committed.lines
        self.evaluated = evaluated

    def __enter__(self: R) -> R:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Release the folder."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """Turn an OSError of the block into a UserError that suggests what to do."""

    @abstractmethod
    def restore(self, state: TrainState) -> None:
        """Set `state` to what was last committed."""

    @abstractmethod
    def commit(self, state: TrainState, pending: PendingCommit) -> None:
        """Commit the state, files and lines: all or nothing."""

    @abstractmethod
    def finish(self) -> None:
        """Remove what the last commit of the run dropped: no later commit does."""

    @abstractmethod
    def is_finished(self, rounds: int) -> bool:
        """Return whether that many rounds are committed."""
