"""The run folder of every rank other than 0: a temporary one, into which nothing is committed."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from aslfast.checkpoint.base_run_dir import BaseRunDir
from aslfast.checkpoint.commits import PendingCommit
from aslfast.checkpoint.state import TrainState


class NullRunDir(BaseRunDir):
    """A run folder that commits nothing and is removed when it is closed."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="aslfast-")
        super().__init__(Path(self._temporary.name))
        self.evaluated = True  # so that nothing is removed after an error

    def close(self) -> None:
        """Remove the temporary folder."""
        self._temporary.cleanup()

    def writing(self) -> AbstractContextManager[None]:
        """Leave errors of the block as they are."""
        return nullcontext()

    def restore(self, state: TrainState) -> None:
        """Do nothing: the state comes from rank 0."""

    def commit(self, state: TrainState, pending: PendingCommit) -> None:
        """Do nothing: rank 0 commits."""

    def finish(self) -> None:
        """Do nothing: there is no file to remove."""

    def is_finished(self, rounds: int) -> bool:
        """Return False: rank 0 knows."""
        return False
