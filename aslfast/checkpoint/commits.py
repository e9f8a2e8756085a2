"""What a run commits: values, before and after they are in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aslfast.checkpoint.state import apply_changes
from aslfast.files.checksum import StoredFile


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a run's numbers depend on: checksums of its inputs, versions of its software, its configuration."""

    inputs: dict[str, str] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    config: str = ""  # as TOML; empty: not recorded, by an older version


@dataclass(frozen=True, slots=True)
class PendingCommit:
    """What a new commit adds besides the state. The files of `made` are complete under their final names."""

    what: str  # run_started, step, phase or round
    made: Sequence[Path] = ()  # files, and folders with all their files
    dropped: Sequence[str] = ()  # names of committed files that no later step needs
    lines: Mapping[str, dict[str, object]] = field(default_factory=dict)  # at most one for each file of lines
    provenance: Provenance | None = None  # of the run: in its first commit, and where a resume changed it


@dataclass(frozen=True, slots=True)
class Commit:
    """One row of the ledger: a PendingCommit with what changed in the state, its files with sizes and checksums."""

    what: str
    state: dict[str, object] = field(default_factory=dict)
    made: dict[str, StoredFile] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    lines: dict[str, dict[str, object]] = field(default_factory=dict)
    provenance: Provenance | None = None


@dataclass
class CommittedState:
    """The result of a sequence of commits. removable: the names that the last one dropped."""

    state: dict[str, object] = field(default_factory=dict)
    files: dict[str, StoredFile] = field(default_factory=dict)
    lines: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    removable: tuple[str, ...] = ()

    @classmethod
    def of(cls, commits: Sequence[Commit]) -> CommittedState:
        """Return the result of the commits, applied in order."""
        whole = cls()
        for commit in commits:
            apply_changes(whole.state, commit.state)
            whole.files |= commit.made
            for name in commit.dropped:
                del whole.files[name]
            for name, line in commit.lines.items():
                whole.lines.setdefault(name, []).append(line)
            whole.provenance = commit.provenance or whole.provenance
            whole.removable = commit.dropped
        return whole
