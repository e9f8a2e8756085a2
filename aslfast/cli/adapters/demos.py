"""The work of `aslfast demos`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aslfast.cli.progress import Meter, quiet_libraries
from aslfast.cli.rollout import Overrides, QuestionSource, check_new_file, known_role, overridden, write_records
from aslfast.config import RunConfig
from aslfast.config.roles import ROLES
from aslfast.data.trajectories import Record
from aslfast.errors import UserError
from aslfast.files.atomic import write_text
from aslfast.retrieval.retriever import open_index
from aslfast.rollout.search_tool import SearchTool
from aslfast.trainer.demos.evidence import Library
from aslfast.trainer.demos.make import DemonstrationMaker, LabelledQuestion, chat_of, read_labelled
from aslfast.trainer.demos.reading import TOP_K, Practice, make_practice

READING = "reading"  # in place of a role


# one parameter a thing that the command names
def make_demos(
    model: str, source: QuestionSource, out: Path, role: str, overrides: Overrides, quiet: bool
) -> dict[str, Any]:
    """Write the demonstrations of a role, or of "all", for a model to `out`; return a summary. Raise UserError."""
    check_new_file(out)
    quiet_libraries()
    config = overridden(model, overrides)
    if role == READING:
        return _practice(config, source, out, quiet)
    known = [name for name in ROLES if name in config.roles]
    roles = known if role == "all" else (known_role(role, known),)
    labelled, started = read_labelled(source.data, source.limit), time.perf_counter()
    index = open_index(source.index, config.tool.timeout_s, config.tool.retries)
    maker = DemonstrationMaker.open(config, index, roles)
    with Meter("demos", len(labelled), "questions", quiet) as meter:
        made = maker.make(labelled, meter.advance)
    if not made.trajectories:
        why = ", ".join(f"{reason} ({n})" for reason, n in made.left_out.most_common(3))
        raise UserError(f"{source.data}: {len(labelled)} questions gave nothing: {why}; check --index and --data")
    write_records(out, [Record(trajectory) for trajectory in made.trajectories])
    return {
        "out": str(out), "questions": len(labelled),
        "demonstrations": dict(Counter(trajectory.task.role for trajectory in made.trajectories)),
        "left_out": dict(made.left_out), "tokens": sum(len(t.token_ids) for t in made.trajectories),
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


def _practice(config: RunConfig, source: QuestionSource, out: Path, quiet: bool) -> dict[str, Any]:
    """Write reading practice; return a summary. Raise UserError."""
    labelled, started = read_labelled(source.data, source.limit), time.perf_counter()
    with Meter("demos", len(labelled), "questions", quiet) as meter:
        made = write_practice(config, source.index, labelled, out, meter.advance)
    return {
        "out": str(out), "questions": len(labelled), "demonstrations": {READING: len(made.conversations)},
        "left_out": {"no retrieved sentence holds the answer": made.left_out} if made.left_out else {},
        "practised": made.questions, "seconds": time.perf_counter() - started,
    }  # fmt: skip


# one parameter a thing that the work needs
def write_practice(
    config: RunConfig, index: str, labelled: Sequence[LabelledQuestion], out: Path, done: Callable[[int], None]
) -> Practice:  # fmt: skip
    """Write reading practice for the model of a configuration to a file of conversations. Raise UserError."""
    opened = open_index(index, config.tool.timeout_s, config.tool.retries)
    library = Library(opened, SearchTool(opened, TOP_K, config.tool.max_passage_chars))
    made = make_practice(library, labelled, chat_of(config).escape_control_tokens, config.seed, done)
    if not made.conversations:
        raise UserError(f"{len(labelled)} questions gave nothing to read: no retrieved sentence holds an answer")
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in made.conversations]
    write_text(out, "".join(lines))
    return made


def print_demos(summary: Mapping[str, Any]) -> None:
    """Print what was written, and what was not."""
    roles = ", ".join(f"{n:,} of {role}" for role, n in summary["demonstrations"].items())
    size = f"{summary['practised']:,} answers" if "practised" in summary else f"{summary['tokens']:,} tokens"
    print(f"{summary['out']}: {roles}, from {summary['questions']:,} questions; {size}")
    for reason, n in summary["left_out"].items():
        print(f"  left out {n:,}: {reason}")
