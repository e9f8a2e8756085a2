"""The multi-turn rollout: Task -> Trajectory. Tokens in, tokens out: what was sampled is never tokenised again."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from aslfast.core import Kind, Role, StopReason, Task, Trajectory, Turn
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.parsing import STOP_TEXTS, parse_output, without_thinking
from aslfast.prompts.tool_calls import SEARCH, Call, parse_calls
from aslfast.rollout.environments.own_environment import GuardedEpisode, OwnEnvironment
from aslfast.rollout.toolbox import ToolCaller
from aslfast.sampler.protocol import Sample, Sampler, SampleRequest

T = TypeVar("T")

_runs = itertools.count()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one trajectory, in turns and tokens."""

    max_turns: int = 5
    max_new_tokens: int = 512  # a turn
    max_context: int = 4096  # the whole trajectory
    max_calls: int = 1  # a turn

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The texts that end a turn; a call does where it is the only one."""
        return STOP_TEXTS if self.max_calls == 1 else tuple(text for text in STOP_TEXTS if text != "</tool_call>")


@dataclass(slots=True)
class _Episode:
    """A trajectory in progress. The seed of each turn is derived from `name`; `session` is unique in the process."""

    name: str
    session: str
    adapter: str | None
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def append(self, kind: Kind, ids: Sequence[int], text: str) -> None:
        """Append tokens that the model did not sample."""
        self._extend(Turn(kind, len(self.ids), len(self.ids) + len(ids), text), ids, 0, [0.0] * len(ids))

    def append_sampled(self, sample: Sample, text: str, in_thinking: bool) -> Turn:
        """Append a turn that the model sampled, and return it."""
        ids = sample.token_ids
        turn = Turn("sampled", len(self.ids), len(self.ids) + len(ids), text, sample.cached_tokens, in_thinking)
        self._extend(turn, ids, 1, sample.logprobs)
        return turn

    def _extend(self, turn: Turn, ids: Sequence[int], in_loss: int, logprobs: Sequence[float]) -> None:
        self.turns.append(turn)
        self.ids += ids
        self.mask += [in_loss] * len(ids)
        self.logprobs += logprobs


SAID = (StopReason.FINISHED, StopReason.NO_OUTPUT, StopReason.TWO_OUTPUTS)  # a turn that calls no tool


@dataclass(frozen=True, slots=True)
class _End:
    """How a trajectory ends."""

    stop: StopReason
    output: str | None = None
    output_answer: str | None = None


def read_turn(
    role: Role, text: str, finish: str, tools: Sequence[str] = (SEARCH,), max_calls: int = 1
) -> tuple[Call, ...] | _End:
    """Return what a sampled turn does: calls of the tools to run, or how the trajectory ends."""
    if finish == "length":
        return _End(StopReason.TURN_TOO_LONG)
    calls = parse_calls(without_thinking(text), max_calls)
    if calls == ():
        return _End(*parse_output(role, text))
    if calls is None:
        return _End(StopReason.MALFORMED_CALL)
    if any(call.name not in tools for call in calls):
        return _End(StopReason.UNKNOWN_TOOL)
    if any(call.name == SEARCH and not call.queries for call in calls):
        return _End(StopReason.MALFORMED_CALL)
    return calls


def take_action(played: GuardedEpisode, end: _End, said: str) -> _End | str:
    """Return what an episode answers to a turn without a call, or how the trajectory ends: the episode decides."""
    action = without_thinking(said).strip() if end.output is None else end.output
    observation = played.step(action)
    if played.failed:
        return _End(StopReason.TOOL_FAILED)
    return _End(StopReason.FINISHED, action) if observation is None else observation


@dataclass(frozen=True)
class Rollout:
    """Runs trajectories on one sampler and its tools. `system` is the system message of every role; an `environment` of
    one's own answers the policy's turns, and rewards its trajectories."""

    sampler: Sampler
    tool: ToolCaller
    chat: Chat
    limits: Limits
    temperature: float
    system: str = ""
    environment: OwnEnvironment | None = None

    async def run(self, task: Task, number: int, seed: int, adapter: str | None, version: int = 0) -> Trajectory:
        """Return the `number`-th trajectory of a task, sampled with an adapter of this version; None: the base alone.

        The same task, number and seed give the same trajectory, whatever else is running.
        """
        name = f"{task.id}#{number}@{seed}"
        episode = _Episode(name, f"{name}~{next(_runs)}", adapter)  # the same name may run twice at once
        environment = self.environment if task.role == "policy" else None
        played = environment and environment.start(task, stable_seed(task.id, seed))
        prompt = f"{task.prompt}\n{played.observation}" if played and played.observation else task.prompt
        episode.append("prompt", self.chat.prompt_ids(prompt, self.system), prompt)
        try:
            end = await self._run_turns(task.role, episode, played)
        finally:
            self.sampler.release(episode.session)
        trajectory = Trajectory(
            task=task,
            token_ids=tuple(episode.ids),
            loss_mask=tuple(episode.mask),
            logprobs=tuple(episode.logprobs),
            turns=tuple(episode.turns),
            stop=end.stop,
            output=end.output,
            output_answer=end.output_answer,
            adapter_version=version,
            environment_reward=played and played.reward,
        )
        return environment.rewarded(trajectory) if environment else trajectory

    async def _run_turns(self, role: Role, episode: _Episode, played: GuardedEpisode | None) -> _End:
        if played and played.failed:
            return _End(StopReason.TOOL_FAILED)
        for turn in range(self.limits.max_turns):
            if len(episode.ids) + self.limits.max_new_tokens > self.limits.max_context:
                return _End(StopReason.CONTEXT_FULL)
            sample = await self._sample(episode, stable_seed(episode.name, turn))
            text, in_thinking = self.chat.text(sample.token_ids), self.chat.opens_thinking(first_turn=turn == 0)
            sampled = episode.append_sampled(sample, text, in_thinking)
            action: Sequence[Call] | _End | str = read_turn(
                role, sampled.said, sample.finish, self.tool.names, self.limits.max_calls
            )
            if played and isinstance(action, _End) and action.stop in SAID:
                action = take_action(played, action, self._without_eos(sampled, sample))
            if isinstance(action, _End):
                return action
            if turn + 1 < self.limits.max_turns:  # no turn would read the last observation
                observed = [(SEARCH, action)] if isinstance(action, str) else await self._observe(action)
                if observed is None:
                    return _End(StopReason.TOOL_FAILED)
                ids = self.chat.results_ids(observed, self.chat.ends_turn(sample.token_ids))
                episode.append("tool", ids, "\n".join(text for _, text in observed))
        return _End(StopReason.TURN_LIMIT)

    def _without_eos(self, turn: Turn, sample: Sample) -> str:
        """Return what a turn says, without the token that ends it."""
        return turn.said.removesuffix(self.chat.text(sample.token_ids[-1:])) if sample.finish == "eos" else turn.said

    async def _observe(self, calls: Sequence[Call]) -> list[tuple[str, str]] | None:
        """Return each call's tool and what it answered, in order; None where one gave no answer."""
        texts = [await self.tool.call(calls[0])] if len(calls) == 1 else await self._answers(calls)
        named = [(call.name, text) for call, text in zip(calls, texts, strict=True) if text is not None]
        return named if len(named) == len(calls) else None

    async def _answers(self, calls: Sequence[Call]) -> list[str | None]:
        return await asyncio.gather(*(self.tool.call(call) for call in calls))

    async def _sample(self, episode: _Episode, seed: int) -> Sample:
        request = SampleRequest(
            tuple(episode.ids), episode.session, episode.adapter, self.limits.max_new_tokens, self.temperature,
            self.limits.stop_texts, seed,
        )  # fmt: skip
        return await self.sampler.generate(request)


def stable_seed(*parts: object) -> int:
    """Return a 63-bit seed from any values, the same in every process (Python's own hash of a string is not)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


async def gather_bounded(jobs: Sequence[Callable[[], Awaitable[T]]], max_concurrent: int) -> list[T]:
    """Return the jobs' results in order; run at most `max_concurrent` at once, so that memory stays bounded."""
    semaphore = asyncio.Semaphore(max_concurrent)

    async def run(job: Callable[[], Awaitable[T]]) -> T:
        async with semaphore:
            return await job()

    return list(await asyncio.gather(*(run(job) for job in jobs)))
