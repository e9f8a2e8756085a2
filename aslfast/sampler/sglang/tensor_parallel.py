"""One engine for the ranks that hold a base between them: the first drives it, the others hear what it scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from aslfast.distributed.process_group import ProcessGroup
from aslfast.sampler.protocol import Sample, SampleRequest
from aslfast.sampler.sglang.sampler import SGLangSampler
from aslfast.sampler.sglang.sync_check import score

T = TypeVar("T")


class FollowerSampler:
    """What a rank has that leaves sampling to the first of its cell."""

    async def generate(self, request: SampleRequest) -> Sample:
        raise RuntimeError(f"session {request.session}: this rank does not sample, the first of its cell does")

    def release(self, session: str) -> None: ...

    def abort(self, session: str) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class GroupScores:
    """What the probe asks of an engine, on every rank of a cell: each of them runs the trainer's half beside it."""

    def __init__(self, sampler: SGLangSampler | FollowerSampler, ranks: ProcessGroup) -> None:
        self._engine, self._ranks = sampler if isinstance(sampler, SGLangSampler) else None, ranks

    def score(self, token_ids: Sequence[int], adapter: str | None) -> list[float]:
        return self._told(lambda engine: score(engine, token_ids, adapter), list[float])

    def version(self, role: str) -> int:
        return self._told(lambda engine: engine.version(role), int)

    def _told(self, ask: Callable[[SGLangSampler], T], kind: type[T]) -> T:
        """What the first of the cell has from its engine."""
        own = msgspec.json.encode(ask(self._engine)) if self._engine else b""
        return msgspec.json.decode(self._ranks.gather_in_group(own)[0], type=kind)
