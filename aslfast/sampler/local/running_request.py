"""A request from its arrival to its answer, and the row of a batch that serves it, alone or with its twins."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from aslfast.sampler.protocol import FinishReason, Sample, SampleRequest
from aslfast.sampler.stop_strings import StopFinder


@dataclass(eq=False)
class RunningRequest:
    """A request that waits or runs. ids = context + sampled tokens."""

    request: SampleRequest
    done: asyncio.Future[Sample]
    stops: StopFinder
    ids: list[int]
    rng: random.Random
    n_cached: int | None = None  # of its context's tokens, those that no forward pass was needed for, when it started
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def append(self, token_id: int, logprob: float) -> None:
        """Add a sampled token."""
        self.ids.append(token_id)
        self.sampled.append(token_id)
        self.logprobs.append(logprob)

    def finish_reason(self, eos: Collection[int], max_context: int) -> FinishReason | None:
        """Return why the last sampled token ends the turn; None where it does not."""
        if self.sampled[-1] in eos:
            return "eos"
        if self.stops.found(self.sampled):
            return "stop"
        if len(self.sampled) >= self.request.max_new_tokens or len(self.ids) >= max_context:
            return "length"
        return None

    def answer(self, finish: FinishReason) -> None:
        """Give the coroutine that waits its sample."""
        if not self.done.done():
            self.done.set_result(Sample(tuple(self.sampled), tuple(self.logprobs), finish, self.n_cached or 0))

    def fail(self, error: BaseException) -> None:
        """Raise the error in the coroutine that waits."""
        if not self.done.done():
            _ = self.done.set_exception(error) if isinstance(error, Exception) else self.done.cancel()


@dataclass(eq=False)
class Row:
    """A row of the batch, and a slot of the cache: requests of one adapter with equal tokens so far, one or more.

    They are computed once for all, and part when they draw different tokens. The first n_kv tokens are in the cache.
    """

    members: Sequence[RunningRequest]
    n_kv: int = 0

    @property
    def ids(self) -> list[int]:
        """The tokens of each member."""
        return self.members[0].ids

    @property
    def session(self) -> str:
        """The session that the slot is kept for."""
        return self.members[0].request.session

    @property
    def adapter(self) -> str | None:
        """The adapter of each member."""
        return self.members[0].request.adapter

    @property
    def slot_key(self) -> tuple[str, str | None, list[int]]:
        """Return what its slot holds: (session, adapter, token ids)."""
        return self.session, self.adapter, self.ids

    def started(self, n_kv: int) -> None:
        """Note how many tokens are in the cache: for all members but the first, all but the last."""
        self.n_kv = n_kv
        for number, run in enumerate(self.members):
            if run.n_cached is None:
                run.n_cached = len(run.ids) - 1 if number else n_kv

    def parted(self) -> list[list[RunningRequest]]:
        """Return the members by the token that each drew last, those of the first one first."""
        by_token: dict[int, list[RunningRequest]] = {}
        for run in self.members:
            by_token.setdefault(run.ids[-1], []).append(run)
        return list(by_token.values())
