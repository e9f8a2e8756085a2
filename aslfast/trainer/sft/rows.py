"""The rows of a fine-tuning: token streams with a mask; which are used, the dev share, the batches of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.core import StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.learner.batch import loss_positions
from aslfast.rollout.multi_turn import stable_seed


@dataclass(frozen=True, slots=True)
class SftRow:
    """One token stream; the loss is on the tokens of its mask. Its log-probs are 0: nothing reads them.

    prompt: what rows must share to be on the same side of the dev split. weight: of each of its tokens in the loss.
    """

    trajectory: Trajectory
    prompt: str
    weight: float = 1.0

    @property
    def loss_tokens(self) -> int:
        return len(loss_positions(self.trajectory))


def make_row(name: str, role: str, ids: Sequence[int], mask: Sequence[int], prompt: str, weight: float = 1.0) -> SftRow:
    """Return a row of token ids and their mask."""
    stream = tuple(ids), tuple(mask), (0.0,) * len(ids)
    return SftRow(Trajectory(Task(name, role, ""), *stream, (), StopReason.NO_OUTPUT), prompt, weight)


@dataclass(frozen=True, slots=True)
class SftRows:
    """The rows of a fine-tuning, and how many were left out, by reason."""

    train: Sequence[SftRow]
    dev: Sequence[SftRow]
    left_out: dict[str, int]


def usable(rows: Sequence[SftRow], positions: int, dev_fraction: float, seed: int) -> SftRows:
    """Return the rows that fit the model and have a token to learn, split by prompt. Raise UserError for too few.

    A fraction above 0 holds out at least one prompt; the same file, fraction and seed give the same split.
    """
    spoken = [row for row in rows if row.loss_tokens]
    kept = [row for row in spoken if len(row.trajectory.token_ids) <= positions]
    counts = {"no token to learn": len(rows) - len(spoken), f"longer than {positions} tokens": len(spoken) - len(kept)}
    prompts = sorted({row.prompt for row in kept}, key=lambda prompt: (stable_seed(seed, "dev", prompt), prompt))
    n_dev = max(1, round(dev_fraction * len(prompts))) if dev_fraction else 0
    if len(prompts) <= n_dev:
        left = ", ".join(f"{n} {reason}" for reason, n in counts.items() if n)
        why = f"{len(prompts)} usable prompts ({left})" if left else f"{len(prompts)} prompts"
        held = f", {n_dev} of them for --dev-fraction" if n_dev else ""
        raise UserError(f"{why}{held}: none is left to learn from; give more rows")
    dev = set(prompts[:n_dev])
    return SftRows(
        [row for row in kept if row.prompt not in dev],
        [row for row in kept if row.prompt in dev],
        {reason: n for reason, n in counts.items() if n},
    )


def epoch_batches(rows: Sequence[SftRow], batch_size: int, seed: int, epoch: int) -> list[list[SftRow]]:
    """Return the batches of an epoch, in an order that depends on seed and epoch alone; the last may be smaller."""
    order = sorted(range(len(rows)), key=lambda i: stable_seed(seed, "epoch", epoch, i))
    return [[rows[i] for i in order[start : start + batch_size]] for start in range(0, len(rows), batch_size)]
