"""The multi-turn rollout: Task -> Trajectory. Tokens in, tokens out: what was sampled is never tokenised again."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from aslfast.config import RunConfig
from aslfast.config.roles import NO_TOOLS, RoleConfig, default_roles
from aslfast.core import StopReason, Task, Trajectory, Turn
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.parsing import parse_output, without_thinking
from aslfast.prompts.tool_calls import SEARCH, Call, parse_calls
from aslfast.rollout.environments.own_environment import GuardedEpisode, OwnEnvironment
from aslfast.rollout.open_trajectory import Limits, OpenTrajectory, Start
from aslfast.rollout.toolbox import ToolCaller
from aslfast.sampler.protocol import Sample, Sampler, SampleRequest

T = TypeVar("T")

_runs = itertools.count()


SAID = (StopReason.FINISHED, StopReason.NO_OUTPUT, StopReason.TWO_OUTPUTS)  # a turn that calls no tool


@dataclass(frozen=True, slots=True)
class _End:
    """How a trajectory ends."""

    stop: StopReason
    output: str | None = None
    output_answer: str | None = None


def read_turn(
    output: Sequence[str], text: str, finish: str, tools: Sequence[str] = (SEARCH,), max_calls: int = 1
) -> tuple[Call, ...] | _End:
    """Return what a sampled turn does: calls of the tools to run, or how the trajectory ends.

    output: the tags of the role's closing turn.
    """
    if finish == "length":
        return _End(StopReason.TURN_TOO_LONG)
    calls = parse_calls(without_thinking(text), max_calls)
    if calls == ():
        return _End(*parse_output(output, text))
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


@dataclass(frozen=True, slots=True)
class Words:
    """How a role with tools of its own is told of them."""

    chat: Chat
    system: str


@dataclass(frozen=True)
class Rollout:
    """Runs trajectories on one sampler and its tools.

    system: the system message. environment: one's own; it answers the turns of a role that plays in it, and rewards its
    trajectories. words: of the roles that have tools of their own, by name.
    """

    sampler: Sampler
    tool: ToolCaller
    chat: Chat
    limits: Limits
    temperature: float
    system: str = ""
    environment: OwnEnvironment | None = None
    roles: Mapping[str, RoleConfig] = field(default_factory=default_roles)
    words: Mapping[str, Words] = field(default_factory=dict)

    def following(self, config: RunConfig) -> Rollout:
        """Return this rollout with the temperature, the limits and the roles' settings of a configuration."""
        own = config.sampler
        limits = replace(self.limits, max_turns=own.max_turns, max_new_tokens=own.max_new_tokens)
        return replace(self, limits=limits, temperature=own.temperature, roles=config.all_roles)

    async def run(
        self, task: Task, number: int, seed: int, adapter: str | None, version: int = 0, start: Start | None = None
    ) -> Trajectory:  # fmt: skip
        """Return the `number`-th trajectory of a task, sampled with an adapter of this version; None: the base alone.

        The same task, number and seed give the same trajectory, whatever else is running. start: what stands before its
        first turn, in place of the task's prompt.
        """
        episode = self._opened(f"{task.id}#{number}@{seed}", task.role, adapter)
        environment = self.environment if episode.role.environment else None
        played = environment and environment.start(task, stable_seed(task.id, seed))
        prompt = f"{task.prompt}\n{played.observation}" if played and played.observation else task.prompt
        if start:
            episode.begin(start)
        else:
            episode.append("prompt", episode.chat.prompt_ids(prompt, self._system(task.role)), prompt)
        try:
            end = await self._run_turns(episode, played)
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

    def opened_with(self, role: str, messages: Sequence[str]) -> Start:
        """Return the start of a trajectory from a list of messages, the user's and the model's in turn, ending with the
        user's. All of it is data, and none of it is learnt from."""
        episode = self._opened("", role, None)
        episode.append("prompt", episode.chat.prompt_ids(messages[0], self._system(role)), messages[0])
        for said, asked in zip(messages[1::2], messages[2::2], strict=True):
            episode.append("prompt", episode.chat.said_ids(said), said)
            episode.append("prompt", episode.chat.message_ids(asked, turn_closed=False), asked)
        return Start.of(episode)

    def gone_on(self, trajectory: Trajectory, message: str, turns: int | None = None, learn: bool = True) -> Start:
        """Return the start of a trajectory that goes on from another, or from its first `turns` turns, with a message.

        learn: whether the turns that were sampled before are learnt from in it too.
        """
        kept = trajectory.turns[:turns]
        end = kept[-1].end if kept else 0
        if not kept or kept[-1].kind != "sampled":
            raise ValueError(f"trajectory {trajectory.task.id}: it can go on after a sampled turn alone")
        episode = self._opened("", trajectory.task.role, None)
        mask = trajectory.loss_mask[:end] if learn else [0] * end
        episode.begin(Start(trajectory.token_ids[:end], tuple(mask), trajectory.logprobs[:end], kept))
        closed = episode.chat.ends_turn(episode.ids)
        episode.append("prompt", episode.chat.message_ids(message, closed), message)
        return Start.of(episode)

    def _opened(self, name: str, role: str, adapter: str | None) -> OpenTrajectory:
        """Return a trajectory without a token; the same name may run twice at once."""
        own, words = self.roles[role], self.words.get(role)
        chat, session = words.chat if words else self.chat, f"{name}~{next(_runs)}"
        temperature = own.temperature or self.temperature
        return OpenTrajectory(name, session, adapter, own, chat, self.limits.of_role(own), temperature)

    def _system(self, role: str) -> str:
        words = self.words.get(role)
        return words.system if words else self.system

    def _tool_names(self, role: RoleConfig) -> Sequence[str]:
        if role.tools == NO_TOOLS:
            return ()
        return [name for name in self.tool.names if not role.tools or name in role.tools]

    async def _run_turns(self, episode: OpenTrajectory, played: GuardedEpisode | None) -> _End:
        if played and played.failed:
            return _End(StopReason.TOOL_FAILED)
        limits, tools, before = episode.limits, self._tool_names(episode.role), len(episode.turns)
        for turn in range(limits.max_turns):
            if len(episode.ids) + limits.max_new_tokens > limits.max_context:
                return _End(StopReason.CONTEXT_FULL)
            sample = await self._sample(episode, stable_seed(episode.name, turn))
            first = turn == 0 and before == 1
            text, in_thinking = episode.chat.text(sample.token_ids), episode.chat.opens_thinking(first_turn=first)
            sampled = episode.append_sampled(sample, text, in_thinking)
            action: Sequence[Call] | _End | str = read_turn(
                episode.role.output, sampled.said, sample.finish, tools, limits.max_calls
            )
            if played and isinstance(action, _End) and action.stop in SAID:
                action = take_action(played, action, self._without_eos(sampled, sample))
            if isinstance(action, _End):
                return action
            if turn + 1 < limits.max_turns:  # no turn would read the last observation
                observed = [(SEARCH, action)] if isinstance(action, str) else await self._observe(action)
                if observed is None:
                    return _End(StopReason.TOOL_FAILED)
                ids = episode.chat.results_ids(observed, episode.chat.ends_turn(sample.token_ids))
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

    async def _sample(self, episode: OpenTrajectory, seed: int) -> Sample:
        limits = episode.limits
        request = SampleRequest(
            tuple(episode.ids), episode.session, episode.adapter, limits.max_new_tokens, episode.temperature,
            limits.stop_texts(episode.role.output), seed,
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
