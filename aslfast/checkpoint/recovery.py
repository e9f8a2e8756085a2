"""The folder of a run that was killed, made what the newest whole commit of its ledger says."""

from __future__ import annotations

import shutil
from pathlib import Path

from aslfast.checkpoint.ledger import CommittedState, Ledger
from aslfast.errors import UserError
from aslfast.files.checksum import damage
from aslfast.files.jsonl import rewrite_lines

LINES = ("metrics.jsonl", "rounds.jsonl")
STEPS = "steps"  # what only a resume reads: the learner's state, the trajectories of the phase under way
# Where a run writes what its ledger names. What lies there unnamed is not committed.
NAMED = (f"{STEPS}/*", "trajectories/round-*.parquet", "adapters/*/v*/adapter_*")
PARTIAL = (".*.partial", f"{STEPS}/.*.partial", "trajectories/.*.partial", "adapters/*/.*.partial")


def recover(run: Path, ledger: Ledger) -> tuple[CommittedState, list[str]]:
    """What is committed, and what a person should know about it. Raises UserError, OSError.

    Where a file that the next step needs is damaged, the last commit is taken back: the files of the one before are
    still there, and doing the step again gives the same bits.
    """
    commits = ledger.read()
    if not commits and any((run / name).exists() for name in LINES):
        raise UserError(f"{ledger.file}: empty or missing, though steps were done; {_remedy(run)}")
    committed, notices = CommittedState.by(commits), []
    if found := _damage(run, committed):
        committed = CommittedState.by(ledger.cut(len(commits) - 1))
        if _damage(run, committed):
            raise UserError(f"{found}; {_remedy(run)}")
        notices.append(f"{found}; the last commit is taken back and what it did is done again")
    _remove_unnamed(run, committed)
    for name in LINES:
        rewrite_lines(run / name, committed.lines.get(name, ()))
    return committed, notices + _worn(run, committed)


def _remedy(run: Path) -> str:
    return f"put back a copy of it, or start a new run from what is in {run}/adapters"


def _damage(run: Path, committed: CommittedState) -> str | None:
    """The first file that the next step needs and that is not whole."""
    for name, stored in committed.files.items():
        if name.startswith(f"{STEPS}/") and (what := damage(run / name, stored)):
            return f"{run / name}: damaged ({what})"
    return None


def _worn(run: Path, committed: CommittedState) -> list[str]:
    """A line where files that no step needs any more are gone or cut."""
    sizes = ((name, damage(run / name, stored, whole=False)) for name, stored in committed.files.items())
    found = [f"{run / name}: {what}" for name, what in sizes if what]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [f"{found[0]}{more}; training goes on without"] if found else []


def _remove_unnamed(run: Path, committed: CommittedState) -> None:
    """Also what the last commit dropped stays, in case that it is taken back."""
    named = {run / name for name in (*committed.files, *committed.removable)}
    for path in (path for pattern in NAMED for path in run.glob(pattern)):
        if path not in named:
            path.unlink()
    for path in (path for pattern in PARTIAL for path in run.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in run.glob("adapters/*/v*"):
        if not any(folder.iterdir()):
            folder.rmdir()
