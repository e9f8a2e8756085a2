"""Where rows come from: a file of trajectories as our rollouts write it, or a file of conversations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aslfast.data.qa_rows import Row
from aslfast.data.trajectories import spans_of
from aslfast.errors import UserError
from aslfast.prompts.chat_template import Chat
from aslfast.trainer.sft.chat_rows import read_chat_rows
from aslfast.trainer.sft.rows import SftRow, make_row

COLUMNS = ("task_id", "role", "question", "conversation", "token_ids", "loss_mask")
OPTIONAL = ("spans",)  # older files lack it


def read_sft_rows(file: Path, role: str, chat: Chat) -> list[SftRow]:
    """Return the rows of a file: .jsonl holds conversations, anything else is read as our trajectories in Parquet.

    Raise UserError where it is neither, or has no row of the role.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; give trajectories (.parquet) or conversations (.jsonl)")
    rows = read_chat_rows(file, role, chat) if file.suffix == ".jsonl" else _trajectory_rows(file, role, chat)
    if not rows:
        raise UserError(f"{file}: no rows of the role {role} in it; choose another --role or file")
    return rows


def _trajectory_rows(file: Path, role: str, chat: Chat) -> list[SftRow]:
    try:
        written = [name for name in OPTIONAL if name in pq.read_schema(file).names]
        table = pq.read_table(file, columns=[*COLUMNS, *written]).to_pylist()
        rows = [row for row in table if row["role"] == role]
        made = [_row(row) for row in rows]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        what = "give what `aslfast rollout`, `aslfast demos` or a run wrote, or conversations as .jsonl"
        raise UserError(f"{file}: no trajectories ({reason}); {what}") from error
    if made and not _same_tokenizer(made[0], rows[0]["conversation"], chat):
        raise UserError(f"{file}: its tokens are of another model's tokenizer; make them again with --model")
    return made


def _row(row: Row) -> SftRow:
    """Return a row of the file; those of one question, or else of one task, are of one prompt. What a span keeps out
    of the loss is not learnt here either."""
    prompt = row["question"] or row["task_id"]
    made = make_row(row["task_id"], row["role"], row["token_ids"], row["loss_mask"], prompt)
    return replace(made, trajectory=replace(made.trajectory, spans=spans_of(row))) if row.get("spans") else made


def _same_tokenizer(row: SftRow, conversation: str, chat: Chat) -> bool:
    """Return whether the first sampled turn, decoded, is what the file shows as its text."""
    ids, mask = row.trajectory.token_ids, row.trajectory.loss_mask
    start = mask.index(1) if 1 in mask else len(mask)
    end = start + next((i for i, live in enumerate(mask[start:]) if not live), len(mask) - start)
    return max(ids, default=0) < len(chat.tokenizer) and chat.text(ids[start:end]).strip() in conversation
