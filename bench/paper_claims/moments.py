"""When a value of a run is read: after a round, or at a share of the budget of sampled tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from aslfast.errors import UserError

Round = Mapping[str, Any]  # of a result file
Get = Callable[[Round], float | None]
QUARTERS = (0, 25, 50, 75, 100)


@dataclass(frozen=True, slots=True)
class Moment:
    """After round `number`; or, with of_budget, at `number` percent of the budget."""

    number: int
    of_budget: bool = False

    @classmethod
    def read(cls, text: str) -> Moment:
        """Return the moment that "4" or "50%" stands for. Raise ValueError."""
        if not re.fullmatch("[0-9]+%?", text):
            raise ValueError(text)
        return cls(int(text.rstrip("%")), text.endswith("%"))

    def value(self, rounds: Sequence[Round], get: Get, budget: int | None) -> float | None:
        """Return a value of a run's rounds; within the budget on a straight line between the rounds around it.

        None where no round has it. Raise UserError for a share of a budget that the result does not have.
        """
        if not self.of_budget:
            return get(rounds[self.number])
        if budget is None:
            raise UserError(f"{self.number}% of the budget: the result has none; collect it again with --collect")
        tokens = accumulate(entry["sampled_tokens"] for entry in rounds)
        known = [(n, value) for n, entry in zip(tokens, rounds, strict=True) if (value := get(entry)) is not None]
        return float(np.interp(budget * self.number / 100, *zip(*known, strict=True))) if known else None
