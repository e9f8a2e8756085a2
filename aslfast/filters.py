"""Checks on what a role gave, in a chain, each with what follows where it fails; see docs/recipes/phases.md.

A phase of one's own calls `filtered` in its `play`. How often each check failed stands in metrics.jsonl, by its name.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from aslfast.core import Question, Trajectory
from aslfast.errors import UserError
from aslfast.phase import Play
from aslfast.rewards import exact_match, normalize

Passes: TypeAlias = Callable[[Play, Trajectory], bool | Awaitable[bool]]
OnFail: TypeAlias = Literal["reward", "resample", "refill", "drop"]


@dataclass(frozen=True)
class Check:
    """One check of an act, and what follows where it fails.

    on_fail: "reward": the act earns `reward`, whatever the others come to; "resample": it is played again, up to
    `tries` times in all, and then dropped; "refill": another question takes its place, and it is dropped; "drop": it is
    not learnt from.
    """

    name: str
    passes: Passes
    on_fail: OnFail = "drop"
    reward: float = 0.0
    tries: int = 4


@dataclass(frozen=True)
class Filtered:
    """An act and what of it goes on: its output and what came with it, or those that take its place; None: nothing."""

    act: Trajectory
    output: str | None
    output_answer: str | None
    failed: str = ""  # the check that failed; empty: none


async def filtered(
    play: Play, act: Callable[[], Awaitable[Trajectory]], checks: Sequence[Check], refill: Question | None = None
) -> Filtered:
    """Play an act and check it, check by check. refill: what takes its place where a check says so. Raise UserError."""
    tries = 0
    while True:
        trajectory = await act()
        tries += 1
        failed = await _first_failed(play, trajectory, checks)
        if failed is None:
            return Filtered(trajectory, trajectory.output, trajectory.output_answer)
        if failed.on_fail != "resample" or tries >= failed.tries:
            return _end(play, trajectory, failed, refill)


async def _first_failed(play: Play, trajectory: Trajectory, checks: Sequence[Check]) -> Check | None:
    for check in checks:
        passed = check.passes(play, trajectory)
        if not (await passed if inspect.isawaitable(passed) else passed):
            play.context.counters.count_failed(check.name)
            return check
    return None


def _end(play: Play, trajectory: Trajectory, failed: Check, refill: Question | None) -> Filtered:
    play.settle(trajectory, {failed.name: failed.reward} if failed.on_fail == "reward" else None)
    if failed.on_fail != "refill":
        return Filtered(trajectory, None, None, failed.name)
    if refill is None:
        raise UserError(f"filters: the check {failed.name} refills, and `filtered` was given no question to do it with")
    return Filtered(trajectory, refill.text, refill.reference, failed.name)


def rule(name: str, test: Callable[[Trajectory], bool], on_fail: OnFail = "drop", reward: float = 0.0) -> Check:
    """Return a check by a rule on the trajectory."""
    return Check(name, lambda _, trajectory: test(trajectory), on_fail, reward)


@dataclass(frozen=True)
class Verdict:
    """Passes an act if a role says so: at least `share` of `votes` acts of it give the output `accept`.

    prompt: with the gaps {question} and {answer}, the act's output and what came with it; empty: the role's own.
    """

    role: str
    prompt: str = ""
    accept: str = "correct"
    votes: int = 1
    share: float = 1.0

    async def __call__(self, play: Play, trajectory: Trajectory) -> bool:
        """Return whether the role accepts the act."""
        asked, answer = trajectory.output or "", trajectory.output_answer or ""
        acts = (play.act(self.role, self.prompt, question=asked, answer=answer) for _ in range(self.votes))
        given = await asyncio.gather(*acts)
        accepted = [normalize(act.output or "") == normalize(self.accept) for act in given]
        return sum(accepted) >= self.share * self.votes


@dataclass(frozen=True)
class AnsweredFrom:
    """Passes a question if a role answers it from what its author read, among other passages (SSP, arXiv 2510.18821).

    prompt: with the gaps {question} and {passages}; empty: the role's own, which should have no tools. noise: the other
    passages, of which `n_noise` are drawn; all are shuffled. The author's answer is what came with its question or,
    where nothing did, one of its task's references.
    """

    role: str
    noise: Callable[[Play], Awaitable[Sequence[str]]]
    prompt: str = ""
    n_noise: int = 4

    async def __call__(self, play: Play, trajectory: Trajectory) -> bool:
        """Return whether the role's answer is the author's."""
        read = [turn.text for turn in trajectory.turns if turn.kind == "tool"]
        rng, others = play.rng("noise"), [text for text in await self.noise(play) if text not in read]
        shown = read + rng.sample(others, min(self.n_noise, len(others)))
        rng.shuffle(shown)
        passages = " ".join(f"[{i}] {text}" for i, text in enumerate(shown, 1))
        answered = await play.act(self.role, self.prompt, question=trajectory.output or "", passages=passages)
        own = trajectory.output_answer
        return exact_match(answered.output, [own] if own else trajectory.task.references)
