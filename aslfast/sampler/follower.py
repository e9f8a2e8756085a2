"""The sampler of a rank whose model-parallel group leader samples for it."""

from __future__ import annotations

from collections.abc import Sequence

from aslfast.sampler.protocol import Sample, SampleRequest


class FollowerSampler:
    """A `Sampler` and `Scorer` that is given nothing to sample; what is asked of it by mistake is a RuntimeError."""

    def start(self) -> None: ...

    async def generate(self, request: SampleRequest) -> Sample:
        raise RuntimeError(f"session {request.session}: this rank does not sample, its group leader does")

    def release(self, session: str) -> None: ...

    def abort(self, session: str) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def score(self, token_ids: Sequence[int], adapter: str | None) -> list[float]:
        raise RuntimeError("this rank does not score, its group leader does")

    def version(self, role: str) -> int:
        raise RuntimeError(f"{role}: this rank has no version, its group leader has")
