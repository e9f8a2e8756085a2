"""The folder of a run: config.toml, ledger.sqlite and what it names, metrics.jsonl, rounds.jsonl. See docs/runs.md."""

from __future__ import annotations

import os
import shlex
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from aslfast.checkpoint.base_run_dir import BaseRunDir
from aslfast.checkpoint.commits import Commit, PendingCommit
from aslfast.checkpoint.ledger import Ledger
from aslfast.checkpoint.recovery import ROUNDS, STEPS, recover
from aslfast.checkpoint.state import TrainState, changes, restore, snapshot, state_from_data
from aslfast.config import RunConfig, from_tree, to_toml, toml
from aslfast.config.renamed import RENAMED, renamed_key
from aslfast.errors import UserError
from aslfast.files import lock
from aslfast.files.atomic import write_text
from aslfast.files.checksum import store
from aslfast.files.jsonl import append_line

CONFIG, LEDGER, LOCK = "config.toml", "ledger.sqlite", "run.lock"


class RunDir(BaseRunDir):
    """Everything that a run writes, locked by one process until `close`. Make it with `create` or `resume`."""

    def __init__(self, path: Path) -> None:
        self._open = ExitStack()
        weakref.finalize(self, self._open.close)  # if `close` is never called
        taken = f"{path}: another process is training this run; wait until it is done, or stop it"
        self._open.enter_context(lock.hold(path / LOCK, taken))
        self._ledger = Ledger(path / LEDGER)
        self._open.callback(self._ledger.close)
        super().__init__(path)
        self._committed = TrainState()
        self._removable: Sequence[str] = ()

    @classmethod
    def create(cls, path: str | Path, config: RunConfig) -> RunDir:
        """Return a new folder, empty but for config.toml. Raise UserError."""
        folder = Path(path)
        check_new_run_dir(folder)
        with _explain_os_error(folder, "or choose another --out"):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / CONFIG, to_toml(config))
            run = cls(folder)
            with run._close_on_error():
                run._ledger.read()
            return run

    @classmethod
    def resume(cls, path: str | Path) -> RunDir:
        """Return a run that ended in any way, restored to its last whole commit. Raise UserError."""
        with _explain_os_error(Path(path), f"then: {resume_command(path)}"):
            run = cls(Path(path))
            with run._close_on_error():
                committed, run.warnings = recover(run.path, run._ledger)
                run._set_committed(committed, evaluated=ROUNDS in committed.lines)
                run._committed, run._removable = state_from_data(committed.state), committed.removable
            return run

    @contextmanager
    def _close_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder."""
        self._open.close()

    def is_finished(self, rounds: int) -> bool:
        """Return whether that many rounds are committed."""
        return self._committed.round > rounds

    def writing(self) -> AbstractContextManager[None]:
        """Turn an OSError of the block into a UserError that suggests what to do."""
        resume = f"then: {resume_command(self.path)}"
        return _explain_os_error(self.path, resume if self.evaluated else "or choose another --out")

    def restore(self, state: TrainState) -> None:
        """Set `state` to what was last committed."""
        restore(state, self._committed)

    def commit(self, state: TrainState, pending: PendingCommit) -> None:
        """Commit the state, files and lines: all or nothing.

        A dropped file is removed by the next commit: until then the commit before is whole, too, as a fallback.
        """
        with self.writing():
            commit = Commit(
                what=pending.what,
                state=changes(self._committed, state),
                made=store(self.path, pending.made),
                dropped=tuple(pending.dropped),
                lines=dict(pending.lines),
                provenance=pending.provenance or self.new_provenance,
            )
            self._ledger.append(commit)
            self._committed = snapshot(state)
            self.files = {name: f for name, f in (self.files | commit.made).items() if name not in commit.dropped}
            self.provenance, self.new_provenance = commit.provenance or self.provenance, None
            for name, line in commit.lines.items():
                append_line(self.path / name, line)
                self.history.setdefault(name, []).append(line)
            self.evaluated |= ROUNDS in commit.lines
            self._remove()
            self._removable = commit.dropped
        for name, line in commit.lines.items():
            for follow in self.followers:
                follow(name, line)

    def finish(self) -> None:
        """Remove what the last commit of the run dropped: no later commit does."""
        with self.writing():
            self._remove()
            if (self.path / STEPS).is_dir() and not any((self.path / STEPS).iterdir()):
                (self.path / STEPS).rmdir()

    def _remove(self) -> None:
        for name in self._removable:
            (self.path / name).unlink(missing_ok=True)


@contextmanager
def _explain_os_error(folder: Path, suggestion: str) -> Iterator[None]:
    """Turn an OSError of the block into a UserError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{folder}: cannot be written ({reason}); free the space, {suggestion}") from error


def resume_command(run: str | Path) -> str:
    """Return the command that resumes a run."""
    return f"aslfast train --resume {shlex.quote(str(run))}"


def check_new_run_dir(folder: Path) -> None:
    """Raise UserError unless the folder is empty, or missing and can be made: before hours of work."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: already exists and is not empty; choose another --out or remove it")
    above = next(path for path in folder.absolute().parents if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"{folder}: {above} is no folder that can be written; choose another --out")


def read_run_config(run: Path) -> RunConfig:
    """Return the configuration that a run was started with. Raise UserError."""
    file = run / CONFIG
    try:
        tree = toml.parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; name the folder of a run") from error
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid TOML ({error}); the run's configuration is damaged") from error
    if old := renamed_key(tree):
        what = f"made by an older version of aslfast ({old} is {RENAMED[old]} now)"
        raise UserError(f"{run}: {what}; finish the run with that version, or start a new one")
    return from_tree(tree, str(file))
