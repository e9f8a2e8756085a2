"""Lengths of real trajectories, and trajectories of random tokens that have them.

    python -m bench.learner.trajectory_lengths RUN --role policy --origin "how RUN was made" \
        --out bench/shapes/tiny_policy.json

A file of shapes is {"origin": ..., "steps": [[trajectory, ...], ...]}: what the optimizer steps of a run learned from.
A trajectory is [shared, not sampled, sampled, not sampled, sampled, ...]: how many tokens it has in common with the one
before it in sorted order, then the lengths of its spans, the prompt first. So a step shares what it shared in the run.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow.parquet as pq

from aslfast.core import StopReason, Task, Trajectory
from aslfast.learner.prefix_tree import common_prefix

Shape: TypeAlias = Sequence[int]
COLUMNS = ["task_id", "round", "step", "reward", "token_ids", "loss_mask"]


def shapes_of(run: Path, role: str) -> list[list[Shape]]:
    """Return the run's optimizer steps: the trajectories of their groups, zero-variance groups left out."""
    rows: list[dict[str, Any]] = []
    for file in sorted((run / "trajectories").glob(f"*-{role}.parquet")):
        rows += pq.read_table(file, columns=COLUMNS).to_pylist()
    steps = []
    for _, step in groupby(rows, key=lambda row: (row["round"], row["step"])):
        kept = []
        for _, group in groupby(sorted(step, key=lambda row: row["task_id"]), key=lambda row: row["task_id"]):
            members = list(group)
            kept += members if len({row["reward"] for row in members}) > 1 else []
        if kept:
            steps.append(_shapes([row for row in kept if any(row["loss_mask"])]))
    return steps


def _shapes(rows: Sequence[dict[str, Any]]) -> list[Shape]:
    before, found = np.empty(0, np.int64), []
    for row in sorted(rows, key=lambda row: row["token_ids"]):
        own = np.asarray(row["token_ids"])
        spans = [len(list(span)) for _, span in groupby(row["loss_mask"])]
        found.append([common_prefix(before, own), *spans])
        before = own
    return found


def trajectories(shapes: Iterable[Shape], n_vocab: int, seed: int) -> list[Trajectory]:
    """Return random tokens in these shapes, in a shuffled order; log-probs are -1 where sampled."""
    rng, before, made = random.Random(seed), [], []
    for i, (shared, *spans) in enumerate(shapes):
        mask = [k % 2 for k, n in enumerate(spans) for _ in range(n)]
        own = [rng.randrange(n_vocab) for _ in range(len(mask) - shared)]
        while own and shared < len(before) and own[0] == before[shared]:
            own[0] = rng.randrange(n_vocab)  # else it would share more than it should
        before = before[:shared] + own
        logprobs = tuple(-float(sampled) for sampled in mask)
        task = Task(f"t{i}", "policy", "")
        made.append(Trajectory(task, tuple(before), tuple(mask), logprobs, (), StopReason.NO_OUTPUT))
    rng.shuffle(made)
    return made


def load(path: Path) -> tuple[str, list[list[Shape]]]:
    """Return a file's (origin, steps)."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["origin"], content["steps"]


def save(path: Path, origin: str, steps: Sequence[Sequence[Shape]]) -> None:
    """Write a file of shapes, a step a line."""
    lines = ",\n".join("[" + ",".join(json.dumps(list(s), separators=(",", ":")) for s in step) + "]" for step in steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"origin": {json.dumps(origin)},\n"steps": [\n{lines}\n]}}\n', encoding="utf-8")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--role", default="policy")
    parser.add_argument("--origin", required=True, help="how the run was made")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    save(args.out, args.origin, shapes_of(args.run, args.role))


if __name__ == "__main__":
    main()
