"""The work of `aslfast trajectories`: a run's trajectories to read in a terminal, or as JSON lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from aslfast.cli.page.stored import Row, TrajectoryFile, rows_of, trajectory_files, turns_of
from aslfast.cli.page.where import Condition
from aslfast.cli.progress import printable, stderr, stdout
from aslfast.errors import UserError

_TITLES = {"prompt": "prompt", "sampled": "model", "tool": "tool", "text": "conversation"}
_STYLES = {"prompt": "", "sampled": "bold", "tool": "green", "text": ""}
JUDGE = "grm"  # the role that a person calls the judge
_THINKING = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
SHOWN = ("round", "role", "step", "task_id", "question", "references", "output", "output_answer", "stop", "reward")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which trajectories to show; None: any. limit: the first so many that pass."""

    role: str | None
    round: int | None
    step: int | None
    where: Sequence[Condition]
    limit: int

    def holds(self, row: Row) -> bool:
        """Return whether a row passes all of it."""
        plain = ((JUDGE if self.role == "judge" else self.role, "role"), (self.round, "round"), (self.step, "step"))
        return all(want is None or want == row[key] for want, key in plain) and all(c.holds(row) for c in self.where)


def print_trajectories(run: Path, wanted: Wanted, as_json: bool) -> None:
    """Print the trajectories of a run that are wanted. Raise UserError where there are none at all."""
    files = trajectory_files(run)
    if not files:
        raise UserError(f"{run}: no trajectories in it; name the folder of a run that has trained a step")
    console, shown = stdout(), 0
    for row in islice(_rows(files, wanted), wanted.limit):
        shown += 1
        print(msgspec.json.encode(_as_json(row)).decode()) if as_json else _print(console, row)
    if not shown:
        roles = ", ".join(sorted({file.phase for file in files}))
        stderr().print(f"aslfast: no trajectory passes; phases with trajectories: {roles}", markup=False)


def _rows(files: Sequence[TrajectoryFile], wanted: Wanted) -> Iterator[Row]:
    for file in files:
        if wanted.round in (None, file.round):
            yield from filter(wanted.holds, rows_of(file.path))


def _as_json(row: Row) -> dict[str, object]:
    shown = {key: row[key] for key in (*SHOWN, "sampled", "searches", "match")}
    turns = [{"kind": kind, "text": text} for kind, text in turns_of(row)]
    return {**shown, "reward_parts": row["parts"], "turns": turns}


def _print(console: Console, row: Row) -> None:
    reward = "no reward" if row["reward"] is None else f"reward {row['reward']:.2f}"
    head = f"{row['role']}, round {row['round']}, step {row['step']}: {row['stop']}, {reward}"
    console.print(Text(printable(f"── {head} ── {row['task_id']}"), "bold cyan"), soft_wrap=True)
    for kind, text in turns_of(row):
        console.print(Text(f"{_TITLES[kind]}:", "dim"), _turn(kind, printable(text.strip())), soft_wrap=True)
    parts = " ".join(f"{name} {value:.2f}" for name, value in row["parts"].items())
    references = " / ".join(row["references"] or ()) or "-"
    ending = f"output: {row['output'] or '-'}   reference: {references}   {parts}\n"
    console.print(Text(printable(ending), "yellow"), soft_wrap=True)


def _turn(kind: str, text: str) -> Text:
    shown = Text(text, _STYLES[kind])
    for thought in _THINKING.finditer(text) if kind == "sampled" else ():
        shown.stylize("not bold italic", *thought.span())
    return shown
