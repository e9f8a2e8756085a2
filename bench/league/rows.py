"""A run's figures at a budget of sampled tokens: straight lines between the rounds before and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from aslfast.metrics.run_log import Line, RunLog


@dataclass(frozen=True, slots=True)
class Entry:
    """A run in the league. Shares are from 0 to 1; None: the recipe has no such figure."""

    seed: int
    accuracy: float  # exact match on held-out questions, at the budget
    before: float  # the same of the base
    by_hops: Mapping[str, float]
    judge: float | None  # balanced accuracy of the role grm
    solvable: float | None  # share of held-out questions of the generator with the right reference
    gap: float | None  # the policy's mean reward less the share that was right, in the last round
    steps: int  # optimizer steps, of all adapters, by the end
    tokens: int  # sampled by the end
    minutes: float
    curve: tuple[tuple[int, float], ...]  # (tokens so far, accuracy), a pair a round

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


def entry_of(log: RunLog, seed: int, budget: int) -> Entry:
    """Return a run's entry."""
    tokens = list(accumulate(_sampled(log, line["round"]) for line in log.rounds))

    def at_budget(value: Callable[[Line], float]) -> float:
        return float(np.interp(budget, tokens, [value(line) for line in log.rounds]))

    last, hops = log.rounds[-1], log.rounds[-1]["by_hops"]
    return Entry(
        seed=seed,
        accuracy=at_budget(lambda line: line["policy_accuracy"]),
        before=log.rounds[0]["policy_accuracy"],
        by_hops={hop: at_budget(lambda line, hop=hop: line["by_hops"][hop]["accuracy"]) for hop in hops},
        judge=last.get("grm_accuracy"),
        solvable=last.get("solvable_share"),
        gap=last.get("true_gap"),
        steps=sum(1 + len(step.get("other_updates", {})) for step in log.steps if step.get("loss") is not None),
        tokens=tokens[-1],
        minutes=sum(line["seconds"] for line in log.rounds) / 60,
        curve=tuple((n, line["policy_accuracy"]) for n, line in zip(tokens, log.rounds, strict=True)),
    )


def _sampled(log: RunLog, number: int) -> int:
    return sum(step["sampled_tokens"] for step in log.steps if step["round"] == number)
