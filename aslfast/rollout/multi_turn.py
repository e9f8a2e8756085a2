"""The multi-turn rollout: Task -> Trajectory. Tokens in, tokens out: what was sampled is never tokenised again."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from aslfast.core import Kind, Role, StopReason, Task, Trajectory, Turn
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.role_tasks import STOP_TEXTS, Call, parse_call, parse_output, without_thinking
from aslfast.rollout.search_tool import SEARCH
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.sampler.protocol import Sample, Sampler, SampleRequest

_runs = itertools.count()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one trajectory, in turns and tokens."""

    max_turns: int = 5
    max_new_tokens: int = 512  # a turn
    max_context: int = 4096  # the whole trajectory


@dataclass(slots=True)
class _Stream:
    """A trajectory under way."""

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def extend(
        self, kind: Kind, ids: Sequence[int], text: str, logprobs: Sequence[float] | None = None, cached_tokens: int = 0
    ) -> None:
        self.turns.append(Turn(kind, len(self.ids), len(self.ids) + len(ids), text, cached_tokens))
        self.ids += ids
        self.mask += [int(logprobs is not None)] * len(ids)
        self.logprobs += [0.0] * len(ids) if logprobs is None else logprobs


@dataclass(frozen=True, slots=True)
class _End:
    stop: StopReason
    output: str | None = None
    output_answer: str | None = None


def read_turn(role: Role, text: str, finish: str) -> Call | _End:
    """What a sampled turn does: a search to run, or how the trajectory ends."""
    if finish == "length":
        return _End(StopReason.TURN_TOO_LONG)
    said = without_thinking(text)
    if "<tool_call>" not in said and "</tool_call>" not in said:
        return _End(*parse_output(role, text))
    call = parse_call(said)
    if call and call.name != SEARCH:
        return _End(StopReason.UNKNOWN_TOOL)
    return call if call and call.queries else _End(StopReason.MALFORMED_CALL)


@dataclass(frozen=True)
class Rollout:
    """Runs trajectories on one sampler and one tool. `system` is the system message of every role."""

    sampler: Sampler
    tool: ToolExecutor
    chat: Chat
    limits: Limits
    temperature: float
    system: str = ""

    async def run(self, task: Task, sample: int, seed: int, adapter: str | None, version: int = 0) -> Trajectory:
        """The `sample`-th trajectory of a task. The same seed gives the same trajectory whatever runs beside it."""
        name = f"{task.id}#{sample}@{seed}"
        session = f"{name}~{next(_runs)}"  # the same task may run twice at once
        stream = _Stream()
        stream.extend("prompt", self.chat.prompt_ids(task.prompt, self.system), task.prompt)
        try:
            end = await self._turns(task.role, stream, name, session, adapter)
        finally:
            self.sampler.release(session)
        return Trajectory(
            task, tuple(stream.ids), tuple(stream.mask), tuple(stream.logprobs), tuple(stream.turns),
            end.stop, end.output, end.output_answer, version,
        )  # fmt: skip

    async def _turns(self, role: Role, stream: _Stream, name: str, session: str, adapter: str | None) -> _End:
        for turn in range(self.limits.max_turns):
            if len(stream.ids) + self.limits.max_new_tokens > self.limits.max_context:
                return _End(StopReason.CONTEXT_FULL)
            sample = await self._sample(stream, session, adapter, stable_seed(name, turn))
            text = self.chat.text(sample.token_ids)
            stream.extend("sampled", sample.token_ids, text, sample.logprobs, sample.cached_tokens)
            step = read_turn(role, text, sample.finish)
            if isinstance(step, _End):
                return step
            if turn + 1 < self.limits.max_turns:  # no observation that nobody reads
                observation = await self.tool.call(step)
                if observation is None:
                    return _End(StopReason.TOOL_FAILED)
                closed = self.chat.ends_turn(sample.token_ids)
                stream.extend("tool", self.chat.observation_ids(observation, closed), observation)
        return _End(StopReason.TURN_LIMIT)

    async def _sample(self, stream: _Stream, session: str, adapter: str | None, seed: int) -> Sample:
        request = SampleRequest(
            tuple(stream.ids), session, adapter, self.limits.max_new_tokens, self.temperature, STOP_TEXTS, seed
        )
        return await self.sampler.generate(request)


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from any values, the same in every process (Python's own hash of a string is not)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


async def bounded(jobs: Sequence[Callable[[], Coroutine[Any, Any, Any]]], at_once: int) -> list[Any]:
    """The jobs' results in order, at most `at_once` under way: the sampler stays full and memory stays bounded."""
    gate = asyncio.Semaphore(at_once)

    async def one(job: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async with gate:
            return await job()

    return list(await asyncio.gather(*(one(job) for job in jobs)))
