"""The work of `aslfast demos`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aslfast.cli.progress import Meter, quiet_libraries
from aslfast.cli.rollout import Overrides, QuestionSource, check_new_file, known_role, overridden, write_records
from aslfast.config.roles import ROLES
from aslfast.data.trajectories import Record
from aslfast.errors import UserError
from aslfast.retrieval.retriever import open_index
from aslfast.trainer.demos.make import DemonstrationMaker, read_labelled


# one parameter a thing that the command names
def make_demos(
    model: str, source: QuestionSource, out: Path, role: str, overrides: Overrides, quiet: bool
) -> dict[str, Any]:
    """Write the demonstrations of a role, or of "all", for a model to `out`; return a summary. Raise UserError."""
    check_new_file(out)
    quiet_libraries()
    config = overridden(model, overrides)
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


def print_demos(summary: Mapping[str, Any]) -> None:
    """Print what was written, and what was not."""
    roles = ", ".join(f"{n:,} of {role}" for role, n in summary["demonstrations"].items())
    print(f"{summary['out']}: {roles}, from {summary['questions']:,} questions; {summary['tokens']:,} tokens")
    for reason, n in summary["left_out"].items():
        print(f"  left out {n:,}: {reason}")
