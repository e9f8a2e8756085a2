"""A rollout of long-tailed trajectories.

Everything is real (sampler, adapters, tool, concurrency limit) but three things, which are forced so that every variant
does the same work: how many turns a trajectory has, how many tokens a turn has (no stop text, no end-of-turn token),
and what is taken for its output. A turn that is not the last is followed by a real search.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from aslfast.core import StopReason, Task, Trajectory, Turn
from aslfast.prompts.tool_calls import search_call
from aslfast.rollout.multi_turn import Rollout, stable_seed
from aslfast.rollout.open_trajectory import Start
from aslfast.sampler.protocol import SampleRequest
from bench.rollout.lengths import Lengths, forced_output


class Barrier:
    """Holds each of `n` trajectories until all that have not left have arrived: a batch framework's step."""

    def __init__(self, n: int) -> None:
        self._left = n
        self._held: list[asyncio.Future[None]] = []

    async def arrive(self) -> None:
        """Wait for the others."""
        self._held.append(asyncio.get_running_loop().create_future())
        held = self._held[-1]
        self._open()
        await held

    def leave(self) -> None:
        """Let the others no longer wait for this one."""
        self._left -= 1
        self._open()

    def _open(self) -> None:
        if len(self._held) == self._left:
            held, self._held = self._held, []
            for one in held:
                one.set_result(None)


@dataclass(frozen=True, slots=True)
class Played:
    """A trajectory that is done."""

    seconds: float  # from its start
    sampled_tokens: int


@dataclass(frozen=True)
class LongTailed(Rollout):
    """A rollout of forced lengths and outputs. `adapters` false: every role samples from the base.

    played: what it has done so far. barrier: where all trajectories wait for each other, if at all.
    """

    lengths: Lengths = field(default_factory=Lengths)
    adapters: bool = True
    played: list[Played] = field(default_factory=list)
    barrier: Barrier | None = None

    async def run(
        self, task: Task, sample: int, seed: int, adapter: str | None, version: int = 0, start: Start | None = None
    ) -> Trajectory:  # fmt: skip
        """Return the `sample`-th trajectory of a task, which starts from its prompt."""
        assert start is None
        started, name = time.perf_counter(), f"{task.id}#{sample}"
        ids = self.chat.prompt_ids(task.prompt, self.system)
        mask, logprobs, tokens = [0] * len(ids), [0.0] * len(ids), self.lengths.tokens_by_turn(name)
        for turn, n_tokens in enumerate(tokens):
            request = SampleRequest(
                tuple(ids), f"{name}@{seed}", adapter if self.adapters else None, n_tokens, self.temperature, (),
                stable_seed(name, turn),
            )  # fmt: skip
            sampled = await self.sampler.generate(request)
            assert len(sampled.token_ids) == n_tokens, f"{len(sampled.token_ids)} tokens, {n_tokens} were forced"
            await self._wait()
            observed = await self._search(task, turn) if turn + 1 < len(tokens) else []
            ids += [*sampled.token_ids, *observed]
            mask += [1] * n_tokens + [0] * len(observed)
            logprobs += [*sampled.logprobs, *[0.0] * len(observed)]
        self.sampler.release(f"{name}@{seed}")
        if self.barrier:
            self.barrier.leave()
        self.played.append(Played(time.perf_counter() - started, sum(tokens)))
        output, answer = forced_output(task.role, name)
        turns = (Turn("sampled", 0, len(ids), ""),)  # their bounds are in the mask; rewards look at texts alone
        return Trajectory(
            task, tuple(ids), tuple(mask), tuple(logprobs), turns, StopReason.FINISHED, output, answer, version
        )

    async def _search(self, task: Task, turn: int) -> Sequence[int]:
        found = await self.tool.call(search_call(f"{task.question or task.prompt} {turn}"))
        await self._wait()
        return self.chat.observation_ids(found.text if found else "", turn_closed=False)

    async def _wait(self) -> None:
        if self.barrier:
            await self.barrier.arrive()
