"""The folder of a run: config.toml, ledger.sqlite and what it names, metrics.jsonl, rounds.jsonl. See docs/runs.md."""

from __future__ import annotations

import shlex
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from aslfast.checkpoint.ledger import Commit, CommittedState, Ledger, Provenance
from aslfast.checkpoint.recovery import ROUNDS, STEPS, recover
from aslfast.checkpoint.state import TrainState, changes, of_data, restore, snapshot
from aslfast.config import RunConfig, from_tree, to_toml, toml
from aslfast.config.renamed import RENAMED, renamed_key
from aslfast.errors import UserError
from aslfast.files import lock
from aslfast.files.atomic import write_text
from aslfast.files.checksum import store
from aslfast.files.jsonl import append_line

CONFIG, LEDGER, LOCK = "config.toml", "ledger.sqlite", "run.lock"


class RunDir:
    """Everything that a run writes, held by one process until `close`. Made by `create` or `resume`.

    An OSError on the way becomes a UserError with a remedy.
    warnings: what a person should know of a resumed run. history: the lines committed so far, by file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = ExitStack()
        weakref.finalize(self, self._open.close)  # of a run that nobody closed
        taken = f"{path}: another process is training this run; wait until it is done, or stop it"
        self._open.enter_context(lock.hold(path / LOCK, taken))
        self._ledger = Ledger(path / LEDGER)
        self._open.callback(self._ledger.close)
        self._have(CommittedState())
        self.warnings: list[str] = []

    @classmethod
    def create(cls, path: str | Path, config: RunConfig) -> RunDir:
        """Return a new folder, empty but for config.toml. Raises UserError."""
        folder = Path(path)
        check_new_run_dir(folder)
        with _explained(folder, "or choose another --out"):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / CONFIG, to_toml(config))
            run = cls(folder)
            with run._closed_on_error():
                run._ledger.read()
            return run

    @classmethod
    def resume(cls, path: str | Path) -> RunDir:
        """Return a run that ended in any way, as its newest whole commit left it. Raises UserError."""
        with _explained(Path(path), f"then: {resume_command(path)}"):
            run = cls(Path(path))
            with run._closed_on_error():
                committed, run.warnings = recover(run.path, run._ledger)
                run._have(committed)
            return run

    def _have(self, committed: CommittedState) -> None:
        self.files, self.provenance, self.history = committed.files, committed.provenance, committed.lines
        self.evaluated = ROUNDS in committed.lines
        self._committed = snapshot(of_data(committed.state))
        self._removable: Sequence[str] = committed.removable

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the folder go."""
        self._open.close()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def round(self) -> int:
        """The round under way; one more than there are when the run is finished."""
        return self._committed["round"]

    def writing(self) -> AbstractContextManager[None]:
        """Turn an OSError of the block into a UserError with a remedy."""
        return _explained(
            self.path, f"then: {resume_command(self.path)}" if self.evaluated else "or choose another --out"
        )

    def restore(self, state: TrainState) -> None:
        """Set `state` to what was last committed."""
        restore(state, self._committed)

    def commit(
        self, what: str, state: TrainState, made: Sequence[Path] = (), dropped: Sequence[str] = (),
        lines: Mapping[str, dict[str, object]] | None = None, provenance: Provenance | None = None,
    ) -> None:  # fmt: skip
        """Commit all or nothing: files and folders `made`, complete under their names; names `dropped`; state; lines.

        A dropped file is removed with the next commit: until then the one before is whole too, to fall back on.
        """
        with self.writing():
            change = changes(self._committed, state)
            commit = Commit(what, change, store(self.path, made), tuple(dropped), dict(lines or {}), provenance)
            self._ledger.append(commit)
            self._committed = snapshot(state)
            self.files = {name: f for name, f in (self.files | commit.made).items() if name not in commit.dropped}
            self.provenance = commit.provenance or self.provenance
            for name, line in commit.lines.items():
                append_line(self.path / name, line)
                self.history.setdefault(name, []).append(line)
            self.evaluated |= ROUNDS in commit.lines
            self._remove()
            self._removable = commit.dropped

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
def _explained(folder: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{folder}: cannot be written ({reason}); free the space, {remedy}") from error


def resume_command(run: str | Path) -> str:
    """Return the command that goes on with a run."""
    return f"aslfast train --resume {shlex.quote(str(run))}"


def check_new_run_dir(folder: Path) -> None:
    """Raise UserError unless the folder is missing or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: already exists and is not empty; choose another --out or remove it")


def read_run_config(run: Path) -> RunConfig:
    """Return the configuration that a run was started with. Raises UserError."""
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
