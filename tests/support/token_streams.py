"""Trajectories made by hand: random tokens, ragged lengths, masks with holes, groups that start the same."""

import random
from collections.abc import Sequence

from aslfast.core import StopReason, Task, Trajectory


def trajectory(
    n_tokens: int, seed: int, n_vocab: int = 256, name: str = "t", start: Sequence[int] = (), prompt: int = 1
) -> Trajectory:
    """Tokens in alternating spans, of which the sampled ones have made-up log-probs; the last token is sampled.

    start: the tokens that it begins with; prompt: how many no model sampled before the first that one did.
    """
    rng = random.Random(seed)
    mask = [0] + [rng.random() < 0.6 for _ in range(n_tokens - 2)] + [1]
    mask = [0] * prompt + [1] + mask[prompt + 1 :]
    logprobs = [-rng.random() * 6 if live else 0.0 for live in mask]
    ids = [*start, *(rng.randrange(n_vocab) for _ in range(n_tokens))][:n_tokens]
    task = Task(f"{name}{seed}", "policy", "p")
    return Trajectory(task, tuple(ids), tuple(map(int, mask)), tuple(logprobs), (), StopReason.NO_OUTPUT)


LENGTHS = (2, 17, 3, 40, 40, 9, 2, 25)


def ragged() -> tuple[list[Trajectory], list[float]]:
    """Eight trajectories, two of them two tokens long, and advantages of both signs."""
    return [trajectory(n, seed) for seed, n in enumerate(LENGTHS)], [1.0, -0.5, 2.0, 0.25, -1.5, 0.75, -1.0, 0.5]


def silent(n_tokens: int, seed: int) -> Trajectory:
    """A prompt that left no room for an answer."""
    task, ids = Task(f"silent{seed}", "policy", "p"), tuple(random.Random(seed).randrange(256) for _ in range(n_tokens))
    return Trajectory(task, ids, (0,) * n_tokens, (0.0,) * n_tokens, (), StopReason.CONTEXT_FULL)


def grouped(seed: int = 0) -> tuple[list[Trajectory], list[float]]:
    """Groups of 4, 3 and 1 behind prompts of 30, 20 and 24 tokens, two of which share their first 17; within them two
    that go on alike past tokens that were sampled, two of the same tokens throughout, one that is the start of
    another, a silent one; and strangers of 2 and 50 tokens. Shuffled."""
    rng = random.Random(seed)
    system = [rng.randrange(256) for _ in range(17)]
    prompts = [system + [rng.randrange(256) for _ in range(n)] for n in (13, 7)] + [
        [rng.randrange(256) for _ in range(24)]
    ]
    turn = [rng.randrange(256) for _ in range(20)]
    starts = [
        prompts[0],
        prompts[0] + turn,
        prompts[0] + turn,
        prompts[0],
        prompts[1],
        prompts[1],
        prompts[1],
        prompts[2],
    ]
    made = [
        trajectory(n, 100 * seed + i, start=start, prompt=20)
        for i, (start, n) in enumerate(zip(starts, (45, 70, 61, 31, 33, 33, 90, 40), strict=True))
    ]
    twin = trajectory(90, 100 * seed + 50, start=made[6].token_ids, prompt=20)
    half = trajectory(60, 100 * seed + 51, start=made[6].token_ids, prompt=20)
    made += [twin, half, silent(30, seed), trajectory(2, 100 * seed + 60), trajectory(50, 100 * seed + 61)]
    rng.shuffle(made)
    return made, [rng.choice((-1, 1)) * (0.2 + rng.random()) for _ in made]
