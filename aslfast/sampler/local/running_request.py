"""A request from its arrival to its answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from dataclasses import dataclass, field

from aslfast.sampler.protocol import FinishReason, Sample, SampleRequest
from aslfast.sampler.stop_strings import StopFinder


@dataclass(eq=False)
class RunningRequest:
    """A request that waits or runs. ids = context + sampled tokens; the first n_kv of them are in the cache."""

    request: SampleRequest
    done: asyncio.Future[Sample]
    stops: StopFinder
    ids: list[int]
    rng: random.Random
    n_kv: int = 0
    n_cached: int | None = None  # n_kv when it first started
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def slot_key(self) -> tuple[str, str | None, list[int]]:
        """Return what its slot holds: (session, adapter, token ids)."""
        return self.request.session, self.request.adapter, self.ids

    def append(self, token_id: int, logprob: float) -> None:
        """Add a sampled token; all tokens before it are in the cache by now."""
        self.n_kv = len(self.ids)
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
