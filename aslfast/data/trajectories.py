"""Trajectories as Parquet: the exact token stream for machines, the conversation for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from aslfast.core import Reward, Span, Trajectory
from aslfast.files.atomic import atomic_file

SCHEMA = pa.schema(
    {
        "task_id": pa.string(),
        "role": pa.string(),
        "round": pa.int32(),
        "step": pa.int32(),
        "adapter_version": pa.int32(),
        "question": pa.string(),
        "references": pa.list_(pa.string()),
        "output": pa.string(),
        "output_answer": pa.string(),
        "stop": pa.string(),
        "reward": pa.float64(),
        "reward_parts": pa.string(),  # JSON
        "conversation": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "loss_mask": pa.list_(pa.int8()),
        "logprobs": pa.list_(pa.float32()),
        "cached_tokens": pa.list_(pa.int32()),  # of each sampled turn's context
        "passages": pa.list_(pa.list_(pa.string())),  # of each tool turn: ids of those that the search found
        "spans": pa.string(),  # JSON; null where there are none
    }
)
_HEADINGS = {"prompt": "=== prompt ===", "sampled": "=== model ===", "tool": "=== tool ==="}


@dataclass(frozen=True, slots=True)
class Record:
    """A trajectory and its place in the run. `reward` is None where none was given."""

    trajectory: Trajectory
    reward: Reward | None = None
    round: int = 0
    step: int = 0


def conversation(trajectory: Trajectory) -> str:
    """Return the turns as readable text."""
    return "\n".join(f"{_HEADINGS[turn.kind]}\n{turn.text.strip()}" for turn in trajectory.turns)


def write_trajectories(path: Path, records: Sequence[Record]) -> None:
    """Write a Parquet file, complete or not at all. Raises OSError."""
    _write(path, [pa.Table.from_pylist([_row(record) for record in records], schema=SCHEMA)])


def join_trajectories(path: Path, parts: Sequence[Path]) -> None:
    """Concatenate files in this order into one, complete or not at all. Raises OSError."""
    _write(path, (pq.read_table(part, schema=SCHEMA) for part in parts))


def _write(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write one row group per table, so that one table at a time is in memory."""
    with atomic_file(path) as partial, pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)


def _row(record: Record) -> dict[str, object]:
    t, reward = record.trajectory, record.reward
    return {
        "task_id": t.task.id,
        "role": t.task.role,
        "round": record.round,
        "step": record.step,
        "adapter_version": t.adapter_version,
        "question": t.task.question,
        "references": list(t.task.references),
        "output": t.output,
        "output_answer": t.output_answer,
        "stop": t.stop.value,
        "reward": None if reward is None else reward.total,
        "reward_parts": None if reward is None else json.dumps(dict(reward.parts)),
        "conversation": conversation(t),
        "token_ids": t.token_ids,
        "loss_mask": t.loss_mask,
        "logprobs": t.logprobs,
        "cached_tokens": [turn.cached_tokens for turn in t.turns if turn.kind == "sampled"],
        "passages": [turn.passages for turn in t.turns if turn.kind == "tool"],
        "spans": msgspec.json.encode(t.spans).decode() if t.spans else None,
    }


def spans_of(row: Mapping[str, Any]) -> tuple[Span, ...]:
    """Return the spans of a row that was read; none of a file from before they were written. Raises ValueError."""
    return msgspec.json.decode(row["spans"], type=tuple[Span, ...]) if row.get("spans") else ()
