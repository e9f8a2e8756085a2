"""A run as the page reads it: its lines, its questions, a table with a line per trajectory, and their texts in chunks.

The table is small, and filtered as a whole; texts are most of a run, and a chunk is unpacked when somebody looks at it.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from pathlib import Path

import msgspec

from aslfast.cli.page.pieces import TokenText, sampled_runs
from aslfast.cli.page.questions import LedgerView
from aslfast.cli.page.stored import Row, TrajectoryFile, rows_of, trajectory_files, turns_of
from aslfast.errors import UserError
from aslfast.metrics.monitor import alarm_texts
from aslfast.metrics.run_log import RunLog

MOST_TRAJECTORIES = 100_000  # in a page; above that whole groups are left out
CHUNK = 256  # trajectories that are packed together
NATS = 20  # steps of a log-prob in a chunk: 1/20 nat
MOST_NATS = 255 / NATS  # below that, and no number: 255 steps
TEXTS = ("question", "output", "output_answer", "task_id", "role", "stop")  # columns of texts, each by its number


@dataclass
class Table:
    """A line per trajectory, by columns; every text is stored once and has a number."""

    columns: dict[str, list[float | int | None]] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        """How many there are."""
        return len(self.columns.get("role", ()))

    def truncate(self, lines: int) -> None:
        """Keep the first so many lines."""
        for column in self.columns.values():
            del column[lines:]

    def add(self, name: str, value: float | None) -> None:
        """Append a value to a column."""
        self.columns.setdefault(name, []).append(value)

    def add_text(self, name: str, text: str | None) -> None:
        """Append a text to a column; None stays None."""
        self.add(name, None if text is None else self.texts.setdefault(text, len(self.texts)))


@dataclass(frozen=True, slots=True)
class Chunk:
    """The texts of some trajectories of one file, the first of which has the number `start` in the table."""

    file: int
    start: int
    packed: bytes


@dataclass
class RunData:
    """The data of one run, which `read` brings up to date."""

    run: Path
    most: int = MOST_TRAJECTORIES
    _table: Table = field(default_factory=Table)
    _chunks: list[Chunk] = field(default_factory=list)
    _files: list[TrajectoryFile] = field(default_factory=list)
    _share: float = 1.0  # of the groups that are kept
    _ledger: LedgerView | None = None

    @property
    def total(self) -> int:
        """Trajectories that the run has."""
        return sum(file.rows for file in self._files)

    @property
    def kept(self) -> int:
        """Trajectories that the page shows."""
        return self._table.lines

    def read(self) -> None:
        """Read the files that came since, and drop what was read of files that are gone. Raise UserError.

        A phase's end replaces its steps' files by one with the same rows.
        """
        try:
            self._read()
        except FileNotFoundError:  # a phase has just ended: its steps' files are one by now
            self._read()

    def _read(self) -> None:
        files = trajectory_files(self.run)
        share = min(1.0, self.most / max(1, sum(file.rows for file in files)))
        self._drop_from(0 if share != self._share else _same(self._files, files))
        self._share, text = share, TokenText.of_run(self.run)
        for file in files[len(self._files) :]:
            self._add(file, text)

    def meta(self) -> bytes:
        """Return the lines, the questions and the table as gzipped JSON. Raise UserError before a round is finished."""
        log = RunLog.read(self.run)
        self._ledger = self._ledger or LedgerView(self.run)
        self._ledger.read()
        questions = self._ledger.questions()
        try:
            of_log = {
                "sentence": log.sentence(), "roles": log.roles, "rounds": log.rounds, "steps": log.steps,
                "alarms": [text for line in log.rounds for text in alarm_texts(line)],
            }  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            what = f"metrics.jsonl or rounds.jsonl has a line that no run writes ({error!r})"
            raise UserError(f"{self.run}: {what}; the run is damaged") from error
        data = {
            "name": self.run.resolve().name, **of_log,
            "config": _text(self.run / "config.toml"), "provenance": self._ledger.provenance,
            "questions": questions, "problem": self._ledger.problem, "total": self.total, "kept": self.kept,
            "starts": [chunk.start for chunk in self._chunks], "nats": NATS,
            "files": [file.name for file in self._files],
            "table": self._table.columns, "texts": list(self._table.texts), "text_columns": [*TEXTS, "label"],
        }  # fmt: skip
        return pack(data)

    def all_chunks(self) -> list[bytes]:
        """Return the texts of all trajectories, as gzipped JSON."""
        return [chunk.packed for chunk in self._chunks]

    def _add(self, file: TrajectoryFile, text: TokenText | None) -> None:
        kept = (row for row in rows_of(file.path) if self._share >= 1 or _place(file, row) < self._share)
        while rows := list(islice(kept, CHUNK)):
            packed = pack([_body(row, text) for row in rows])
            self._chunks.append(Chunk(len(self._files), self._table.lines, packed))
            for row in rows:
                _add_line(self._table, len(self._files), row)
        self._files.append(file)

    def _drop_from(self, file: int) -> None:
        """Drop what came of the files from a number on."""
        dropped = [chunk for chunk in self._chunks if chunk.file >= file]
        self._table.truncate(dropped[0].start if dropped else self._table.lines)
        del self._chunks[len(self._chunks) - len(dropped) :], self._files[file:]


def pack(data: object) -> bytes:
    """Return data as gzipped JSON, the same bytes every time."""
    return gzip.compress(msgspec.json.encode(data), 6, mtime=0)


def _same(read: Sequence[TrajectoryFile], now: Sequence[TrajectoryFile]) -> int:
    """Return how many of the files that were read are still the first ones."""
    pairs = enumerate(zip(read, now, strict=False))
    return next((place for place, (old, new) in pairs if old != new), min(len(read), len(now)))


def _place(file: TrajectoryFile, row: Row) -> float:
    """Return a number in [0, 1) that a group's trajectories share, by which they are kept or left out."""
    return zlib.crc32(f"{file.name} {row['step']} {row['task_id']}".encode()) / 2**32


def _add_line(table: Table, file: int, row: Row) -> None:
    table.add_text("label", row["references"][0] if row["references"] else None)
    for name in TEXTS:
        table.add_text(name, row[name])
    for name in ("round", "step", "adapter_version", "reward", "sampled", "searches", "match"):
        table.add(name, row[name])
    table.add("file", file)
    table.add("tokens", len(row["loss_mask"]))
    table.add("task_reward", None if row["reward"] is None else row["reward"] - row["parts"].get("format", 0.0))


def _body(row: Row, text: TokenText | None) -> dict[str, object]:
    turns, tokens = turns_of(row), None
    spans = sampled_runs(row["loss_mask"])
    if text and len(spans) == sum(kind == "sampled" for kind, _ in turns):
        pieces = [text.pieces(row["token_ids"][start:end]) for start, end in spans]
        said = iter(pieces)  # as it was sampled, with white space and the end of the turn
        turns = [(kind, "".join(next(said)) if kind == "sampled" else shown) for kind, shown in turns]
        tokens = [_tokens(each, row["logprobs"][start:end]) for each, (start, end) in zip(pieces, spans, strict=True)]
    return {
        "turns": turns, "tokens": tokens, "references": row["references"], "passages": row.get("passages"),
        "parts": row["parts"], "cached": row.get("cached_tokens"),
        "spans": json.loads(row["spans"]) if row.get("spans") else None,
    }  # fmt: skip


def _tokens(pieces: Sequence[str], logprobs: Sequence[float]) -> tuple[list[int], list[int], float | None]:
    """Return a turn's tokens: lengths in the text, log-probs in steps of 1 / NATS below 0, and their true mean."""
    steps = [round(-NATS * max(-MOST_NATS, min(0.0, p))) if isfinite(p) else 255 for p in logprobs]
    mean = sum(logprobs) / max(1, len(logprobs))
    return _lengths(pieces), steps, round(mean, 5) if isfinite(mean) else None


def _lengths(pieces: Sequence[str]) -> list[int]:
    return [len(piece.encode("utf-16-le", "surrogatepass")) // 2 for piece in pieces]


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
