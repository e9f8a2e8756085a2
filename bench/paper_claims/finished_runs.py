"""Reads a finished run of an arm, round by round, from its ledger: there every line has its checksum."""

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
from aslfast.config.roles import ROLES
from aslfast.errors import UserError
from aslfast.metrics.run_log import RunLog
from bench.paper_claims.arms import Arm


def started(run: Path) -> bool:
    """Return whether there is a run in the folder."""
    return (run / CONFIG).exists()


def finished(run: Path) -> bool:
    """Return whether all rounds of the run are done."""
    return (run / LEDGER).is_file() and not _missing_rounds(run, commits_of(run))


def commits_of(run: Path) -> list[Commit]:
    """Return the run's commits. Raise UserError if the ledger is missing or damaged."""
    if not (run / LEDGER).is_file():
        raise UserError(f"{run / LEDGER}: missing; name the folder that holds the runs, or train this one")
    ledger = Ledger(run / LEDGER)
    try:
        return ledger.read()
    finally:
        ledger.close()


def check_same(run: Path, arm: Arm, seed: int) -> None:
    """Raise UserError, with the first key that differs, unless the run has the arm's configuration."""
    wanted, found = _flat(arm.config(seed)), _flat(read_run_config(run))
    if not wanted["model.prompt_date"]:  # then a run has the day that it started
        found["model.prompt_date"] = ""
    for key, value in wanted.items():
        if found[key] != value:
            raise UserError(
                f"{run / CONFIG}: {key} is {found[key]!r}, the arm {arm.key} with seed {seed} has {value!r}; "
                "name another folder, or remove this run"
            )


def _flat(config: RunConfig) -> dict[str, object]:
    """Return every setting under its full name."""
    return dict(_leaves(dataclasses.asdict(config), ""))


def _leaves(tree: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    found = []
    for key, value in tree.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return found


def gather(run: Path, arm: Arm, seed: int, made: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one run for the result file. made: the stamps of what trained it.

    Raise UserError unless the run is the arm's and finished.
    """
    if not started(run):
        raise UserError(f"{run}: no run in it; train it, without --collect")
    check_same(run, arm, seed)
    commits = commits_of(run)
    if missing := _missing_rounds(run, commits):
        raise UserError(f"{run}: round {missing[0]} is missing, the run is not finished; finish it, without --collect")
    whole = CommittedState.of(commits)
    log = RunLog(whole.lines["rounds.jsonl"], whole.lines.get("metrics.jsonl", []))
    rounds = [_entry(log, line, size) for line, size in zip(log.rounds, _pool_sizes(commits), strict=True)]
    return {"made": made, "software": whole.provenance.software, "rounds": rounds}


def _missing_rounds(run: Path, commits: list[Commit]) -> list[int]:
    committed = {commit.lines["rounds.jsonl"]["round"] for commit in commits if commit.what == "round"}
    return [number for number in range(read_run_config(run).rounds + 1) if number not in committed]


def _pool_sizes(commits: list[Commit]) -> list[int]:
    """Return the size of the question pool at the end of each round."""
    state: dict[str, Any] = {}
    sizes = []
    for commit in commits:
        apply_changes(state, commit.state)
        if commit.what == "round":
            sizes.append(len(state.get("pool", {})))
    return sizes


def _entry(log: RunLog, line: Mapping[str, Any], pool_questions: int) -> dict[str, Any]:
    """Return a round's metrics. reward: the policy's without its format part, so what its judge or rule said."""
    steps = [step for step in log.steps if step["round"] == line["round"]]
    judged = [step["reward"] - step["reward_parts"]["format"] for step in steps if step["phase"] == "policy"]
    return {
        "round": line["round"],
        "accuracy": line["policy_accuracy"],
        "by_hops": {hops: scores["accuracy"] for hops, scores in line["by_hops"].items()},
        "n_eval": line["n_eval"],
        "grm": line["grm_accuracy"],
        "solvable": line["solvable_share"],
        "gap": line.get("true_gap"),
        "reward": sum(judged) / len(judged) if judged else None,
        "rewards": {role: log.reward(line["round"], role) for role in ROLES},
        "pool_questions": pool_questions,
        "sampled_tokens": sum(step["sampled_tokens"] for step in steps),
        "seconds": line["seconds"],
    }


def read_made(file: Path) -> list[dict[str, Any]]:
    """Return the stamps that belong to a run, one for each time that it was started; none without such a file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
