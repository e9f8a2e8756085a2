"""Recovery of a run that was killed: restore its folder to the last whole commit of its ledger."""

from __future__ import annotations

import shutil
from pathlib import Path

from aslfast.checkpoint.commits import CommittedState
from aslfast.checkpoint.ledger import Ledger
from aslfast.errors import UserError
from aslfast.files.checksum import damage
from aslfast.files.jsonl import rewrite_lines

METRICS, ROUNDS = "metrics.jsonl", "rounds.jsonl"  # one line per optimizer step, one line per round
SFT_LINES = "sft.jsonl"  # one line per step of the phase "sft", if there is one
LINES = (METRICS, ROUNDS, SFT_LINES)
STEPS = "steps"  # what only a resume reads: the learner's state, the trajectories of the current phase
# Where a run writes the files that its ledger names. A file there that no commit names is not committed.
NAMED = (f"{STEPS}/*", "trajectories/round-*.parquet", "adapters/*/v*/adapter_*")
PARTIAL = (".*.partial", f"{STEPS}/.*.partial", "trajectories/.*.partial", "adapters/*/.*.partial")


def recover(run: Path, ledger: Ledger) -> tuple[CommittedState, list[str]]:
    """Return what is committed, and warnings for the user. Raise UserError, OSError.

    If a file that the next step needs is damaged, the last commit is undone: the files of the one before are still
    there, and repeating the step gives the same bits.
    """
    commits = ledger.read()
    if not commits and any((run / name).exists() for name in LINES):
        raise UserError(f"{ledger.file}: empty or missing, though steps were done; {_suggestion(run)}")
    committed, warnings = CommittedState.of(commits), []
    if found := _damage(run, committed):
        committed = CommittedState.of(ledger.truncate(len(commits) - 1))
        if _damage(run, committed):
            raise UserError(f"{found}; {_suggestion(run)}")
        warnings.append(f"{found}; the last commit is undone, and its step is done again")
    _remove_unnamed(run, committed)
    for name in LINES:
        rewrite_lines(run / name, committed.lines.get(name, ()))
    return committed, warnings + _warnings(run, committed)


def _suggestion(run: Path) -> str:
    return f"restore a copy of it, or start a new run from what is in {run}/adapters"


def _damage(run: Path, committed: CommittedState) -> str | None:
    """Return what is wrong with the first damaged file that the next step needs."""
    for name, stored in committed.files.items():
        if name.startswith(f"{STEPS}/") and (what := damage(run / name, stored)):
            return f"{run / name}: damaged ({what})"
    return None


def _warnings(run: Path, committed: CommittedState) -> list[str]:
    """Return a warning if files that no later step needs are missing or truncated."""
    sizes = ((name, damage(run / name, stored, whole=False)) for name, stored in committed.files.items())
    found = [f"{run / name}: {what}" for name, what in sizes if what]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [f"{found[0]}{more}; training goes on without"] if found else []


def _remove_unnamed(run: Path, committed: CommittedState) -> None:
    """Remove files that no commit names; keep what the last commit dropped, in case it is undone later."""
    named = {run / name for name in (*committed.files, *committed.removable)}
    for path in (path for pattern in NAMED for path in run.glob(pattern)):
        if path not in named:
            path.unlink()
    for path in (path for pattern in PARTIAL for path in run.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in run.glob("adapters/*/v*"):
        if not any(folder.iterdir()):
            folder.rmdir()
