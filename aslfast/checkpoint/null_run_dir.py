"""What a rank other than 0 has in place of the run's folder: a temporary one, into which nothing is committed."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from aslfast.checkpoint.ledger import Provenance
from aslfast.checkpoint.run_dir import RunDir


class NullRunDir(RunDir):
    """A run folder of which nothing is kept."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="aslfast-")
        self.path, self.files, self.provenance, self.warnings = Path(self._temporary.name), {}, Provenance(), []
        self.history = {}
        self.evaluated = True  # nothing of it is to be cleared after an error

    def close(self) -> None:
        """Remove the temporary folder."""
        self._temporary.cleanup()

    def writing(self) -> AbstractContextManager[None]:
        """Do nothing around a write."""
        return nullcontext()

    def finish(self) -> None:
        """Do nothing: no file is to be removed."""
