"""Trajectories made by hand: random tokens, ragged lengths, masks with holes."""

import random

from aslfast.core import StopReason, Task, Trajectory


def trajectory(n_tokens: int, seed: int, n_vocab: int = 256, name: str = "t") -> Trajectory:
    """Tokens in alternating spans, of which the sampled ones have made-up log-probs; the last token is sampled."""
    rng = random.Random(seed)
    mask = [0] + [rng.random() < 0.6 for _ in range(n_tokens - 2)] + [1]
    logprobs = [-rng.random() * 6 if live else 0.0 for live in mask]
    ids = [rng.randrange(n_vocab) for _ in range(n_tokens)]
    task = Task(f"{name}{seed}", "policy", "p")
    return Trajectory(task, tuple(ids), tuple(map(int, mask)), tuple(logprobs), (), StopReason.NO_OUTPUT)


LENGTHS = (2, 17, 3, 40, 40, 9, 2, 25)


def ragged() -> tuple[list[Trajectory], list[float]]:
    """Eight trajectories, two of them two tokens long, and advantages of both signs."""
    return [trajectory(n, seed) for seed, n in enumerate(LENGTHS)], [1.0, -0.5, 2.0, 0.25, -1.5, 0.75, -1.0, 0.5]
