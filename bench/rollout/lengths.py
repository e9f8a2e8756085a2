"""Lengths and outputs that are forced on trajectories, drawn from their names: the same ones for every variant."""

from __future__ import annotations

import random
from dataclasses import dataclass

from aslfast.prompts.parsing import VERDICTS
from aslfast.rollout.multi_turn import stable_seed


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens per turn and turns per trajectory, both log-normal and at least 1.

    median and sigma: exp(mu) and sigma of the log-normal. max_total: sampled tokens of a trajectory.
    """

    median_tokens: float = 5.0
    sigma_tokens: float = 1.6
    max_tokens: int = 200
    median_turns: float = 3.0
    sigma_turns: float = 0.8
    max_turns: int = 8
    max_total: int = 400

    def tokens_by_turn(self, name: str) -> list[int]:
        """Return how many tokens each turn of the trajectory of that name samples."""
        rng = random.Random(stable_seed("lengths", name))

        def draw(median: float, sigma: float, maximum: int) -> int:
            return min(maximum, max(1, round(median * rng.lognormvariate(0.0, sigma))))

        turns = draw(self.median_turns, self.sigma_turns, self.max_turns)
        tokens = [draw(self.median_tokens, self.sigma_tokens, self.max_tokens) for _ in range(turns)]
        return [n for i, n in enumerate(tokens) if sum(tokens[: i + 1]) <= self.max_total]


def forced_output(role: str, name: str) -> tuple[str, str | None]:
    """Return the (output, answer) of the trajectory of that name."""
    rng = random.Random(stable_seed("output", name))
    if role == "generator":
        return f"Which of the names is number {rng.randrange(10**6)}?", f"name {rng.randrange(3)}"
    return (rng.choice(VERDICTS[:2]) if role == "grm" else f"name {rng.randrange(3)}"), None
