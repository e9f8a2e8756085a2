"""What a finished run of an arm says, round by round, out of its ledger: where every line has its checksum."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aslfast.checkpoint.commits import Commit, CommittedState
from aslfast.checkpoint.ledger import Ledger
from aslfast.checkpoint.run_dir import CONFIG, LEDGER, read_run_config
from aslfast.checkpoint.state import apply_changes
from aslfast.config import RunConfig
from aslfast.core import ROLES
from aslfast.errors import UserError
from aslfast.metrics.run_log import RunLog
from bench.paper_claims.arms import Arm


def begun(run: Path) -> bool:
    return (run / CONFIG).exists()


def finished(run: Path) -> bool:
    return (run / LEDGER).is_file() and not _missing_rounds(run, commits_of(run))


def commits_of(run: Path) -> list[Commit]:
    """Raises UserError where the ledger is missing or damaged."""
    if not (run / LEDGER).is_file():
        raise UserError(f"{run / LEDGER}: not there; name the folder that holds the runs, or train this one")
    ledger = Ledger(run / LEDGER)
    try:
        return ledger.read()
    finally:
        ledger.close()


def check_same(run: Path, arm: Arm, seed: int) -> None:
    """Raises UserError, with the first key that differs, unless the run has the arm's configuration."""
    wanted, found = _flat(arm.config(seed)), _flat(read_run_config(run))
    for key, value in wanted.items():
        if found[key] != value:
            raise UserError(
                f"{run / CONFIG}: {key} is {found[key]!r}, the arm {arm.key} with seed {seed} has {value!r}; "
                "name another folder, or remove this run"
            )


def _flat(config: RunConfig) -> dict[str, Any]:
    """Every setting under its full name."""
    return dict(_leaves(dataclasses.asdict(config), ""))


def _leaves(tree: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return found


def gather(run: Path, arm: Arm, seed: int, made: list[dict[str, Any]]) -> dict[str, Any]:
    """One run for the JSON. made: the stamps of what trained it.

    Raises UserError unless it is the arm's and finished.
    """
    if not begun(run):
        raise UserError(f"{run}: no run there; train it, without --collect")
    check_same(run, arm, seed)
    commits = commits_of(run)
    if missing := _missing_rounds(run, commits):
        raise UserError(f"{run}: round {missing[0]} is missing, the run is not finished; finish it, without --collect")
    whole = CommittedState.of(commits)
    log = RunLog(whole.lines["rounds.jsonl"], whole.lines.get("metrics.jsonl", []))
    rounds = [_entry(log, line, pool) for line, pool in zip(log.rounds, _pools(commits), strict=True)]
    return {"made": made, "software": whole.provenance.software, "rounds": rounds}


def _missing_rounds(run: Path, commits: list[Commit]) -> list[int]:
    there = {commit.lines["rounds.jsonl"]["round"] for commit in commits if commit.what == "round"}
    return [number for number in range(read_run_config(run).rounds + 1) if number not in there]


def _pools(commits: list[Commit]) -> list[int]:
    """Questions in the pool at the end of each round."""
    state: dict[str, Any] = {}
    sizes = []
    for commit in commits:
        apply_changes(state, commit.state)
        if commit.what == "round":
            sizes.append(len(state.get("pool", {})))
    return sizes


def _entry(log: RunLog, line: dict[str, Any], pool: int) -> dict[str, Any]:
    """A round's figures. reward: the policy's without its format part, so what its judge or rule said."""
    steps = [step for step in log.steps if step["round"] == line["round"]]
    judged = [step["reward"] - step["reward_parts"]["format"] for step in steps if step["phase"] == "policy"]
    return {
        "round": line["round"],
        "truth": line["policy_accuracy"],
        "by_hops": {hops: share["accuracy"] for hops, share in line["by_hops"].items()},
        "n_eval": line["n_eval"],
        "grm": line["grm_accuracy"],
        "solvable": line["solvable_share"],
        "reward": sum(judged) / len(judged) if judged else None,
        "rewards": {role: log.reward(line["round"], role) for role in ROLES},
        "pool": pool,
        "sampled_tokens": sum(step["sampled_tokens"] for step in steps),
        "seconds": line["seconds"],
    }


def read_made(file: Path) -> list[dict[str, Any]]:
    """The stamps beside a run, one for each time that it was started; none where there is no such file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
