"""The trajectories of a run's folder as they are stored: which files there are, and their rows in order.

A phase that is under way has a file for each step (steps/); when it ends, one file has all of them (trajectories/).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aslfast.data.trajectories import SCHEMA
from aslfast.errors import UserError
from aslfast.files.jsonl import read_lines
from aslfast.rewards.match import exact_match

_NAME = re.compile(r"(round-(\d+)-(.+?))(?:-(\d{5}))?\.parquet")
_HEADING = re.compile(r"^=== (prompt|model|tool) ===\n?", re.MULTILINE)
_KINDS = {"prompt": "prompt", "model": "sampled", "tool": "tool"}
BATCH = 256  # rows in memory at once
NEWER = {"passages", "spans", "cached_tokens"}  # columns that older runs do not have
STREAMS = ("token_ids", "loss_mask", "logprobs")

Row = dict[str, Any]  # of a Parquet file, by column
TurnText = tuple[str, str]  # kind and text


@dataclass(frozen=True, slots=True)
class TrajectoryFile:
    """A Parquet file of trajectories. name: what a row's link starts with, the same before and after its phase ends."""

    path: Path
    name: str  # round-NNN-PHASE
    round: int
    phase: str
    step: int = 0  # of the phase, where the file has one step alone
    rows: int = 0
    size: int = 0  # bytes


def trajectory_files(run: Path) -> list[TrajectoryFile]:
    """Return the files of a run in the order of its phases; those of a step only while their phase has none of its own.

    Raise UserError for a file that is no Parquet file. One that is removed meanwhile is left out.
    """
    whole = [found for path in sorted((run / "trajectories").glob("*.parquet")) if (found := _described(path))]
    ended = {file.name for file in whole}
    parts = [found for path in sorted((run / "steps").glob("*.parquet")) if (found := _described(path))]
    files = [*whole, *(part for part in parts if part.name not in ended)]
    order = _order_of_phases(run)
    return sorted(files, key=lambda file: (file.round, order.get((file.round, file.phase), len(order)), file.path.name))


def _order_of_phases(run: Path) -> dict[tuple[int, str], int]:
    """Return the place of each round's phases, as metrics.jsonl names them; empty where it cannot be read."""
    try:
        lines = read_lines(run / "metrics.jsonl")
        seen = dict.fromkeys((line["round"], line["phase"]) for line in lines)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return {phase: place for place, phase in enumerate(seen)}


def _described(path: Path) -> TrajectoryFile | None:
    match = _NAME.fullmatch(path.name)
    if not match:
        return None
    name, number, phase, step = match.groups()
    try:
        rows = pq.read_metadata(path).num_rows
        return TrajectoryFile(path, name, int(number), phase, int(step or 0), rows, path.stat().st_size)
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def rows_of(file: Path) -> Iterator[Row]:
    """Yield the rows of a file in order, each with what it comes to. Raise UserError, FileNotFoundError.

    parts: the reward's, by name. sampled: tokens. searches: None in runs that did not keep them. match: 1 where the
    output equals a reference, None where there is none.
    """
    try:
        with pq.ParquetFile(file) as parquet:
            if missing := set(SCHEMA.names) - set(parquet.schema_arrow.names) - NEWER:
                raise ValueError(f"no column {', '.join(sorted(missing))}")
            for batch in parquet.iter_batches(BATCH):
                yield from map(_checked, batch.to_pylist())
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise _unreadable(file, error) from error


def _checked(row: Row) -> Row:
    """Return a row with what it comes to. Raise ValueError for what no run writes."""
    parts, streams = json.loads(row["reward_parts"] or "{}"), [row[name] for name in STREAMS]
    if not isinstance(parts, dict) or not all(isinstance(value, int | float) for value in parts.values()):
        raise ValueError(f"reward_parts of {row['task_id']!r} is {row['reward_parts']!r}")
    if any(stream is None or len(stream) != len(streams[0]) for stream in streams) or min(streams[0], default=0) < 0:
        raise ValueError(f"the token stream of {row['task_id']!r} is damaged")
    references, passages = row["references"], row.get("passages")
    return {
        **row, "parts": parts, "sampled": sum(row["loss_mask"]),
        "searches": None if passages is None else len(passages),
        "match": int(exact_match(row["output"], references)) if references else None,
    }  # fmt: skip


def turns_of(row: Row) -> list[TurnText]:
    """Return the turns of a row's conversation, whose headings are text and may be forged by a passage.

    A conversation whose headings are not as many as the turns that were counted apart is one turn of the kind "text".
    """
    text = row["conversation"] or ""
    places = list(_HEADING.finditer(text))
    kinds = [_KINDS[place[1]] for place in places]
    counted = len(row.get("cached_tokens") or ()), len(row["passages"]) if row.get("passages") is not None else None
    if not places or places[0].start() or [place for place, kind in enumerate(kinds) if kind == "prompt"] != [0]:
        return [("text", text)]
    if kinds.count("sampled") != counted[0]:
        return [("text", text)]
    if counted[1] is not None and kinds.count("tool") != counted[1]:
        return [("text", text)]
    ends = [place.start() - 1 for place in places[1:]] + [len(text)]
    return [(kind, text[place.end() : end]) for kind, place, end in zip(kinds, places, ends, strict=True)]


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path}: not a Parquet file of trajectories ({reason}); the run is damaged")
