"""The numbers of a run's lines under the names that trackers show: policy/reward, judge/accuracy, eval/f1, ..."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from aslfast.metrics.run_log import by_role_of

Line = Mapping[str, Any]
NAMES = {"grm": "judge"}  # how a person calls a role
PLACES = ("round", "phase", "step")  # of a line: where it stands, which is no metric
OF_ROUNDS = {  # key of rounds.jsonl -> name; all others are eval/KEY
    "policy_accuracy": "policy/accuracy", "grm_accuracy": "judge/accuracy", "solvable_share": "generator/solvable",
    "judge_truth_gap": "judge/truth_gap", "judge_agreement": "judge/agreement", "verdict_bias": "judge/bias",
}  # fmt: skip


def step_scalars(line: Line) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl: of each role ROLE/KEY, and the step's own PHASE/KEY."""
    roles, phase = by_role_of(line), str(line["phase"])
    own = {} if phase in roles else {key: value for key, value in line.items() if key != "roles"}
    found = {NAMES.get(role, role): values for role, values in roles.items()} | ({phase: own} if own else {})
    return {
        "round": float(line["round"]),
        **dict(pair for name, values in found.items() for pair in _numbers(name, _without_places(values))),
    }


def round_scalars(line: Line) -> dict[str, float]:
    """Return the numbers of a line of rounds.jsonl, and how many alarms it has."""
    named = {name: line[key] for key, name in OF_ROUNDS.items() if key in line}
    others = {key: value for key, value in line.items() if key not in OF_ROUNDS and key not in ("round", "alarms")}
    numbers = dict(pair for name, value in named.items() for pair in _numbers(name, value))
    alarms = {"eval/alarms": float(len(line["alarms"]))} if "alarms" in line else {}
    return {"round": float(line["round"]), **numbers, **dict(_numbers("eval", others)), **alarms}


def _without_places(values: Line) -> Line:
    return {key: value for key, value in values.items() if key not in PLACES}


def _numbers(name: str, value: object) -> Iterator[tuple[str, float]]:
    """Yield the finite numbers in a value, each with its path; nothing of texts and of what is missing."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(f"{name}/{NAMES.get(key, key)}", item)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _numbers(f"{name}/{place}", item)
    elif isinstance(value, int | float) and isfinite(value):
        yield name, float(value)
